"""What a run's augmentation may do: the `[augment]` section of its TOML file.

Flat keys change features and apply whatever the data's source; each table changes the waveform and needs
`[data] source = "audio"`. Everything has a probability per utterance (0: never) and a start epoch; -1 stands
for the section's own `start_epoch`.
"""

from dataclasses import dataclass, field

OF_FEATURES = ("warp", "stretch", "noise", "crop", "masks")
OF_WAVEFORMS = ("speed", "pitch", "room", "coloured_noise", "noise_files", "gain", "codec")


def _check_range(low: float, high: float, what: str) -> None:
    if low > high:
        raise ValueError(f"{what}: {low} is above {high}")


def _check_share(probability: float, what: str) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"{what} must be in 0..1, not {probability}")


@dataclass(frozen=True)
class GainConfig:
    """Louder or softer; what passes full scale is clipped, as a microphone does."""

    probability: float = 0.0
    start_epoch: int = -1
    low_db: float = -18.0
    high_db: float = 9.0

    def __post_init__(self) -> None:
        _check_share(self.probability, "probability")
        _check_range(self.low_db, self.high_db, "low_db, high_db")


@dataclass(frozen=True)
class ColouredNoiseConfig:
    """Steady noise with a spectrum of 1 / frequency^colour."""

    probability: float = 0.0
    start_epoch: int = -1
    snr_low_db: float = 5.0  # against the speech's power, pauses not counted
    snr_high_db: float = 35.0
    colour_low: float = 0.0  # 0 white, 1 pink, 2 brown
    colour_high: float = 2.0

    def __post_init__(self) -> None:
        _check_share(self.probability, "probability")
        _check_range(self.snr_low_db, self.snr_high_db, "snr_low_db, snr_high_db")
        _check_range(self.colour_low, self.colour_high, "colour_low, colour_high")


@dataclass(frozen=True)
class NoiseFilesConfig:
    """A piece of a drawn recording from a folder, repeated where it is shorter than the utterance."""

    probability: float = 0.0
    start_epoch: int = -1
    folder: str = ""  # searched with its subfolders
    snr_low_db: float = 3.0
    snr_high_db: float = 30.0

    def __post_init__(self) -> None:
        _check_share(self.probability, "probability")
        _check_range(self.snr_low_db, self.snr_high_db, "snr_low_db, snr_high_db")
        if self.probability and not self.folder:
            raise ValueError("noise from files needs a folder")


@dataclass(frozen=True)
class PitchConfig:
    """Another pitch and vocal tract at the same tempo."""

    probability: float = 0.0
    start_epoch: int = -1
    semitones: float = 2.0  # at the most, up or down

    def __post_init__(self) -> None:
        _check_share(self.probability, "probability")
        if not 0 <= self.semitones <= 12:
            raise ValueError(f"semitones must be in 0..12, not {self.semitones}")


@dataclass(frozen=True)
class SpeedConfig:
    """Tempo and pitch together, by resampling (Ko et al. 2015)."""

    probability: float = 0.0
    start_epoch: int = -1
    low: float = 0.9  # times as fast
    high: float = 1.1

    def __post_init__(self) -> None:
        _check_share(self.probability, "probability")
        _check_range(self.low, self.high, "low, high")
        if not 0.5 <= self.low <= self.high <= 2:
            raise ValueError(f"speeds must be in 0.5..2, not {self.low}..{self.high}")


@dataclass(frozen=True)
class RoomConfig:
    """Reverberation of simulated shoebox rooms."""

    probability: float = 0.0
    start_epoch: int = -1
    rooms: int = 100  # different ones; each is simulated once a process
    rt60_low_s: float = 0.1  # reverberation time
    rt60_high_s: float = 0.6

    def __post_init__(self) -> None:
        _check_share(self.probability, "probability")
        _check_range(self.rt60_low_s, self.rt60_high_s, "rt60_low_s, rt60_high_s")
        if self.rooms < 1 or self.rt60_low_s <= 0:
            raise ValueError("at least one room with a reverberation time above 0 is needed")


@dataclass(frozen=True)
class CodecConfig:
    """A lossy way to the recogniser. The five ways are drawn as often as their weights say."""

    probability: float = 0.0
    start_epoch: int = -1
    telephone: float = 1.0  # 300-3400 Hz, 8 kHz, mu-law
    mobile: float = 1.0  # 8 kHz, AMR narrow band at 4.75-12.2 kbit/s
    band: float = 1.0  # high-pass at 50-400 Hz, low-pass at 2.5-7 kHz
    mp3: float = 1.0  # 16-48 kbit/s
    opus: float = 1.0  # 8-24 kbit/s

    def __post_init__(self) -> None:
        _check_share(self.probability, "probability")
        if min(self.weights) < 0 or not sum(self.weights):
            raise ValueError("the codecs' weights must not be negative, nor all 0")

    @property
    def weights(self) -> tuple[float, ...]:
        """In the order of training.waveform.CODECS."""
        return (self.telephone, self.mobile, self.band, self.mp3, self.opus)


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to utterances, from `start_epoch` on (the ancestor's finding: none at first)."""

    start_epoch: int = 3
    stretch_probability: float = 0.5  # tempo, by resampling frames
    stretch_start_epoch: int = -1
    stretch: float = 0.12  # drawn from 1 - stretch to 1 + stretch
    crop_probability: float = 0.0  # of the quiet frames before and after the speech, a drawn part
    crop_start_epoch: int = -1
    warp_probability: float = 0.5  # of the frequency axis, as another vocal tract would
    warp_start_epoch: int = -1
    warp: float = 0.12
    noise_probability: float = 0.0  # steady noise of a drawn tilt, added to the power
    noise_start_epoch: int = -1
    noise_snr_low_db: float = 3.0
    noise_snr_high_db: float = 30.0
    frequency_masks: int = 2
    frequency_mask_bands: int = 27  # at the most
    time_masks_per_s: float = 0.7  # adaptive: longer utterances get more
    time_mask_fraction: float = 0.05  # of the utterance, at the most, each
    masks_probability: float = 0.9  # of any masks at all (SpecAugment, arXiv 1904.08779)
    masks_start_epoch: int = -1
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    pitch: PitchConfig = field(default_factory=PitchConfig)
    room: RoomConfig = field(default_factory=RoomConfig)
    coloured_noise: ColouredNoiseConfig = field(default_factory=ColouredNoiseConfig)
    noise_files: NoiseFilesConfig = field(default_factory=NoiseFilesConfig)
    gain: GainConfig = field(default_factory=GainConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)

    def __post_init__(self) -> None:
        for name in OF_FEATURES:
            _check_share(getattr(self, f"{name}_probability"), f"{name}_probability")

    @property
    def waveform(self) -> dict[str, float]:
        """Probability of each augmentation that needs audio."""
        return {name: getattr(self, name).probability for name in OF_WAVEFORMS}

    @property
    def earliest_epoch(self) -> int:
        """Before it, nothing is done to features."""
        return min(self._begins(getattr(self, f"{name}_start_epoch")) for name in OF_FEATURES)

    @property
    def latest_epoch(self) -> int:
        """From it on, everything is on."""
        starts = [getattr(self, f"{name}_start_epoch") for name in OF_FEATURES]
        starts += [getattr(self, name).start_epoch for name in OF_WAVEFORMS]
        return max(self._begins(start) for start in starts)

    def on(self, start_epoch: int, epoch: int) -> bool:
        """Whether an augmentation with this `start_epoch` has begun."""
        return epoch >= self._begins(start_epoch)

    def _begins(self, start_epoch: int) -> int:
        return self.start_epoch if start_epoch < 0 else start_epoch
