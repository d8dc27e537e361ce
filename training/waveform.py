"""Augmentations of a waveform: each a frozen record of one draw that can be applied and says what it is.

Samples are float32 (n_samples,) at 16 kHz. Resampling, tempo, filters and codecs are FFmpeg's, through PyAV;
rooms are pyroomacoustics' (image source method, Allen and Berkley 1979). The same record changes the same
samples in the same way, whichever process applies it.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from asr.audio import SAMPLE_RATE, Samples, read_audio

SOUND_M_PER_S = 343.0
MAX_REFLECTIONS = 30  # of one image source; later, weaker ones are left out, which ends long tails early
MAX_NOISE_S = 60.0  # of a noise file that is kept in memory
ACTIVE_DB = 30.0  # pieces of 20 ms this far under the loudest are pauses


class Effect(Protocol):
    """One drawn change of a waveform."""

    def apply(self, samples: Samples) -> Samples:
        """The changed samples; the ones handed in stay as they are."""


@dataclass(frozen=True)
class Speed:
    factor: float  # times as fast

    def apply(self, samples: Samples) -> Samples:
        return _filtered(samples, ("asetrate", str(_rate(self.factor))), ("aresample", str(SAMPLE_RATE)))

    def __str__(self) -> str:
        return f"speed {self.factor:.2f}x"


@dataclass(frozen=True)
class Pitch:
    semitones: float  # up, or down when negative

    def apply(self, samples: Samples) -> Samples:
        rate = _rate(2 ** (self.semitones / 12))
        tempo = ("atempo", f"{SAMPLE_RATE / rate:.9f}")
        shifted = _filtered(samples, ("asetrate", str(rate)), ("aresample", str(SAMPLE_RATE)), tempo)
        return _of_length(shifted, len(samples))

    def __str__(self) -> str:
        return f"pitch {self.semitones:+.1f} semitones"


@dataclass(frozen=True)
class Room:
    number: int  # what its size, walls and places are drawn from
    rt60_low_s: float
    rt60_high_s: float

    def apply(self, samples: Samples) -> Samples:
        """As loud as before, not delayed, the echo of the last word cut off at the recording's end."""
        response = _impulse_response(self.number, self.rt60_low_s, self.rt60_high_s)
        n_fft = _fft_length(len(samples) + len(response) - 1)
        spectrum = np.fft.rfft(samples, n_fft) * np.fft.rfft(response, n_fft)
        echoing = np.fft.irfft(spectrum, n_fft)[: len(samples)]
        return _as_float(echoing * np.sqrt(_power(samples) / max(_power(echoing), 1e-20)))

    def __str__(self) -> str:
        return f"room {self.number}"


@dataclass(frozen=True)
class ColouredNoise:
    snr_db: float
    colour: float  # 0 white, 1 pink, 2 brown
    seed: int

    def apply(self, samples: Samples) -> Samples:
        n_fft = _fft_length(max(2, len(samples)))
        white = np.random.default_rng(self.seed).standard_normal(n_fft, dtype=np.float32)
        return _mixed(samples, coloured(white, self.colour)[: len(samples)], self.snr_db)

    def __str__(self) -> str:
        return f"noise 1/f^{self.colour:.1f} at {self.snr_db:.0f} dB"


@dataclass(frozen=True)
class FileNoise:
    path: Path
    place: float  # where in the recording it begins, 0..1
    snr_db: float

    def apply(self, samples: Samples) -> Samples:
        recorded = _noise_file(self.path)
        start = int(self.place * max(0, len(recorded) - len(samples)))
        return _mixed(samples, np.resize(recorded[start:], len(samples)), self.snr_db)

    def __str__(self) -> str:
        return f"{self.path.name} at {self.snr_db:.0f} dB"


@dataclass(frozen=True)
class Gain:
    db: float

    def apply(self, samples: Samples) -> Samples:
        return np.clip(samples * np.float32(10 ** (self.db / 20)), -1.0, 1.0)

    def __str__(self) -> str:
        return f"gain {self.db:+.0f} dB"


CODECS = ("telephone", "mobile", "band", "mp3", "opus")


@dataclass(frozen=True)
class Codec:
    kind: str  # of CODECS
    amount: float  # 0..1: of the range of bit rates or cut-offs, from the worst to the best

    def apply(self, samples: Samples) -> Samples:
        amount, kind = self.amount, self.kind
        if kind == "band":
            low, high = (
                ("highpass", f"f={400 - 350 * amount:.0f}"),
                ("lowpass", f"f={2500 + 4500 * amount:.0f}"),
            )
            return _of_length(_filtered(samples, low, high), len(samples))
        if kind == "telephone":
            band = _filtered(samples, ("highpass", "f=300"), ("lowpass", "f=3400"))
            coded = _coded(band, "pcm_mulaw", "wav", 8000, 0)
        elif kind == "mobile":
            coded = _coded(samples, "libopencore_amrnb", "3gp", 8000, AMR_BITS_PER_S[round(amount * 7)])
        elif kind == "mp3":
            coded = _coded(samples, "libmp3lame", "mp3", SAMPLE_RATE, MP3_BITS_PER_S[round(amount * 4)])
        else:
            coded = _coded(samples, "libopus", "ogg", SAMPLE_RATE, round(8000 + 16000 * amount))
        return _of_length(coded, len(samples))

    def __str__(self) -> str:
        return self.kind if self.kind == "telephone" else f"{self.kind}, quality {self.amount:.1f} of 1"


AMR_BITS_PER_S = (4750, 5150, 5900, 6700, 7400, 7950, 10200, 12200)
MP3_BITS_PER_S = (16000, 24000, 32000, 40000, 48000)


def _filtered(samples: Samples, *filters: tuple[str, str]) -> Samples:
    """Samples through a chain of FFmpeg's audio filters, (name, arguments) each."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=SAMPLE_RATE, format="flt", layout="mono", time_base=Fraction(1, SAMPLE_RATE)
    )
    last = source
    for name, arguments in filters:
        following = graph.add(name, arguments)
        last.link_to(following)
        last = following
    sink = graph.add("abuffersink")
    last.link_to(sink)
    graph.configure()
    source.push(_frame(samples))
    source.push(None)
    pieces = []
    while True:
        try:
            pieces.append(sink.pull().to_ndarray()[0])
        except (av.error.EOFError, av.error.BlockingIOError):
            break
    return _as_float(np.concatenate(pieces)) if pieces else samples


def _coded(samples: Samples, codec: str, container: str, rate: int, bits_per_s: int) -> Samples:
    """Samples encoded and decoded again; at least a tenth of a second, of which encoders make a frame."""
    samples = _of_length(samples, max(len(samples), SAMPLE_RATE // 10))
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        if bits_per_s:
            stream.bit_rate = bits_per_s
        out.mux(stream.encode(_frame(np.clip(samples, -1.0, 1.0))))
        out.mux(stream.encode(None))
    return read_audio(file.getvalue(), max_duration_s=len(samples) / SAMPLE_RATE + 1)


def _frame(samples: Samples) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="flt", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), 0
    return frame


def coloured(white: np.ndarray, colour: float) -> np.ndarray:
    """White noise with a spectrum that falls as 1/f^colour above 20 Hz: 0 white, 1 pink, 2 brown."""
    hz = np.maximum(np.fft.rfftfreq(len(white), 1 / SAMPLE_RATE), 20.0)
    return np.fft.irfft(np.fft.rfft(white) * hz ** (-colour / 2), len(white))


@lru_cache(maxsize=1024)
def _impulse_response(number: int, rt60_low_s: float, rt60_high_s: float) -> Samples:
    """From the direct sound on, which is 1."""
    import pyroomacoustics  # a second of importing that runs without rooms are spared

    pyroomacoustics.constants.set("num_threads", 1)  # as the process that loads batches has
    rng = np.random.default_rng([number, 0x4008])
    size_m = rng.uniform([3.0, 2.5, 2.3], [9.0, 7.0, 3.5])
    rt60_s = rng.uniform(rt60_low_s, rt60_high_s)
    volume, surface = np.prod(size_m), 2 * (np.prod(size_m) / size_m).sum()
    absorption = np.clip(24 * np.log(10) / SOUND_M_PER_S * volume / (surface * rt60_s), 0.05, 0.95)  # Sabine
    order = int(np.clip(np.ceil(SOUND_M_PER_S * rt60_s / size_m.min()), 1, MAX_REFLECTIONS))
    mouth_m, ear_m = (rng.uniform(0.4, size_m - 0.4) for _ in range(2))
    room = pyroomacoustics.ShoeBox(
        size_m, fs=SAMPLE_RATE, materials=pyroomacoustics.Material(float(absorption)), max_order=order
    )
    room.add_source(mouth_m)
    room.add_microphone(ear_m)
    room.compute_rir()
    response = np.asarray(room.rir[0][0])
    direct = int(np.abs(response).argmax())
    heard = response[direct : direct + int(rt60_s * SAMPLE_RATE) + 1]
    return _as_float(heard / heard[0])


@lru_cache(maxsize=64)
def _noise_file(path: Path) -> Samples:
    """Raises AudioError when it cannot be read, ValueError when it is silent."""
    with path.open("rb") as file:
        samples = read_audio(file.read(), max_duration_s=36_000)[: int(MAX_NOISE_S * SAMPLE_RATE)]
    if not np.any(samples):
        raise ValueError(f"{path} is digital silence")
    return samples


def _mixed(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Noise added so that the speech, pauses not counted, is `snr_db` above it."""
    noise_power = max(_power(noise), 1e-20)
    wanted = _active_power(samples) / 10 ** (snr_db / 10)
    return _as_float(samples + noise * np.sqrt(wanted / noise_power))


def _active_power(samples: Samples) -> float:
    piece = SAMPLE_RATE // 50
    powers = np.square(samples[: len(samples) // piece * piece].reshape(-1, piece), dtype=np.float64).mean(
        axis=1
    )
    if not len(powers):
        return _power(samples)
    return float(powers[powers >= powers.max() * 10 ** (-ACTIVE_DB / 10)].mean())


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def _fft_length(at_least: int) -> int:
    """The next length of 2^n or 3 * 2^n, which are fast."""
    power = 1 << max(1, at_least - 1).bit_length()
    return 3 * power // 4 if 3 * power // 4 >= at_least else power


def _rate(factor: float) -> int:
    return round(SAMPLE_RATE * factor)


def _of_length(samples: Samples, n_samples: int) -> Samples:
    """Cut, or filled up with silence: codecs pad and filters hold back a few milliseconds."""
    return np.pad(samples[:n_samples], (0, max(0, n_samples - len(samples))))


def _as_float(samples: np.ndarray) -> Samples:
    return samples.astype(np.float32, copy=False)
