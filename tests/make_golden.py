"""Write the golden log-mels with torchaudio: `make golden`, or `python -m tests.make_golden`.

Runs where torchaudio imports. Beside a CPU build of torch the wheel of PyPI (2.11.0) does so only with its
compiled libraries deleted; they are not needed here:

    pip download --no-deps torchaudio==2.11.0 && unzip -d /tmp/torchaudio torchaudio-*.whl
    rm /tmp/torchaudio/torchaudio/lib/*.so
    PYTHONPATH=/tmp/torchaudio python -m tests.make_golden
"""

from pathlib import Path

import numpy as np
import torch

from asr.audio import SAMPLE_RATE
from asr.features import FeatureSettings

GOLDEN = Path(__file__).parent / "golden" / "log_mel.npz"
DURATION_S = 0.5


def golden_signal() -> np.ndarray:
    """Float32 (n_samples,): a rising tone, seeded noise that fades in, and 50 ms of digital silence."""
    rng = np.random.default_rng(7)
    time_s = np.arange(int(DURATION_S * SAMPLE_RATE)) / SAMPLE_RATE
    sweep = 0.3 * np.sin(2 * np.pi * (100 * time_s + 6000 * time_s**2))
    noise = 0.1 * (time_s / DURATION_S) * rng.standard_normal(len(time_s))
    signal = sweep + noise
    signal[3200:4000] = 0.0
    return signal.astype(np.float32)


def main() -> None:
    from torchaudio.transforms import MelSpectrogram

    settings = FeatureSettings()
    spectrogram = MelSpectrogram(
        sample_rate=SAMPLE_RATE,
        n_fft=settings.n_fft,
        win_length=settings.window_length,
        hop_length=settings.hop_length,
        f_min=settings.low_hz,
        f_max=settings.high_hz,
        n_mels=settings.n_mels,
        power=2.0,
        center=True,
        pad_mode="constant",
        norm=None,
        mel_scale="htk",
    )
    samples = golden_signal()
    mel_FT = spectrogram(torch.from_numpy(samples))
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, samples=samples, mel_power_TF=mel_FT.T.contiguous().numpy())
    print(f"wrote {GOLDEN.name}, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
