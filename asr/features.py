"""Log-mel features in plain torch: the only feature code, for training and serving.

Shapes: T frames, F mel bands, K FFT bins. Values equal torchaudio's `MelSpectrogram` with `center=True,
pad_mode="constant"`, HTK mel scale, no area normalisation (held by `tests/test_features_golden.py`).
"""

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from asr.audio import SAMPLE_RATE, Samples

_LEAST_DEVIATION = 0.5  # of log-mels, in nepers; speech has 2 to 4

# Settings that came later, with the value that bundles made before have: absent means this.
FEATURES_ADDED_LATER: dict[str, Any] = {"variance": False}


@dataclass(frozen=True)
class FeatureSettings:
    """How a waveform becomes features; kept in the bundle."""

    n_mels: int = 80
    n_fft: int = 512  # samples
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 7600.0
    floor: float = 1e-6  # mel power below this is raised to it before the logarithm
    scale: float = 4.0  # log-mels are divided by this after their mean is taken away
    variance: bool = False  # divided by the recording's own standard deviation instead of by `scale`

    def __post_init__(self) -> None:
        if not 0 <= self.low_hz < self.high_hz <= SAMPLE_RATE / 2:
            raise ValueError(
                f"need 0 <= low_hz < high_hz <= {SAMPLE_RATE / 2}, not {self.low_hz}, {self.high_hz}"
            )
        if self.window_length > self.n_fft:
            raise ValueError(f"a window of {self.window_length} samples does not fit n_fft={self.n_fft}")

    @property
    def window_length(self) -> int:
        return _whole(self.window_ms * SAMPLE_RATE / 1000)

    @property
    def hop_length(self) -> int:
        return _whole(self.hop_ms * SAMPLE_RATE / 1000)


def to_section(settings: FeatureSettings) -> dict[str, Any]:
    """The settings as bundle.json and train.json hold them; later ones only where they differ."""
    implied = FEATURES_ADDED_LATER
    return {k: v for k, v in asdict(settings).items() if k not in implied or v != implied[k]}


def _whole(samples: float) -> int:
    if samples != round(samples):
        raise ValueError(f"{samples} is no whole number of samples")
    return round(samples)


def n_frames(n_samples: int, settings: FeatureSettings) -> int:
    """Frames that `log_mel` gives for a waveform of this length."""
    return 1 + n_samples // settings.hop_length


def log_mel(samples: Samples | torch.Tensor, settings: FeatureSettings) -> torch.Tensor:
    """Features of one waveform, its mean spectrum taken away: what the acoustic models read.

    samples: float32 (n_samples,) at 16 kHz. Returns float32 (T, F) on the samples' device.
    """
    return normalised(raw_log_mel(samples, settings), settings)


def normalised(log_mels_TF: torch.Tensor, settings: FeatureSettings) -> torch.Tensor:
    """Raw log-mels without their mean spectrum (the recording's channel and loudness), scaled.

    With `settings.variance` one number scales a whole recording, its standard deviation over frames and bands
    (its dynamic range, which noise and codecs flatten); near silence it is held at `_LEAST_DEVIATION`.
    """
    centred_TF = log_mels_TF - log_mels_TF.mean(dim=0, keepdim=True)
    if not settings.variance:
        return centred_TF / settings.scale
    return centred_TF / centred_TF.std(correction=0).clamp_min(_LEAST_DEVIATION)


def raw_log_mel(samples: Samples | torch.Tensor, settings: FeatureSettings) -> torch.Tensor:
    """Natural logarithm of the mel power spectrum, (T, F), before the mean is taken away."""
    waveform = torch.as_tensor(samples, dtype=torch.float32)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"expected samples of shape (n_samples,), not {tuple(waveform.shape)}")
    spectrum_KT = torch.stft(
        waveform,
        n_fft=settings.n_fft,
        hop_length=settings.hop_length,
        win_length=settings.window_length,
        window=torch.hann_window(settings.window_length, device=waveform.device),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power_KT = spectrum_KT.real.square() + spectrum_KT.imag.square()
    mel_FK = _mel_filters(settings).to(waveform.device)
    return (mel_FK @ power_KT).clamp_min(settings.floor).log().T.contiguous()


@lru_cache(maxsize=8)
def _mel_filters(settings: FeatureSettings) -> torch.Tensor:
    """Triangular filters on the HTK mel scale, (F, K)."""
    n_bins = settings.n_fft // 2 + 1
    bins_hz_K = torch.linspace(0, SAMPLE_RATE / 2, n_bins, dtype=torch.float64)
    low_mel, high_mel = _hz_to_mel(settings.low_hz), _hz_to_mel(settings.high_hz)
    mels = torch.linspace(low_mel, high_mel, settings.n_mels + 2, dtype=torch.float64)
    corners_hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    left, centre, right = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    rising = (bins_hz_K - left) / (centre - left)
    falling = (right - bins_hz_K) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0.0).to(torch.float32)


def _hz_to_mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)
