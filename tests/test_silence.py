"""What the acoustic model is not asked about."""

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from asr.silence import is_silent


def _noise(slope: float, seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power of `slope`, peak 1."""
    n = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    noise = np.fft.irfft(spectrum / np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 20.0) ** slope, n)
    return (noise / np.abs(noise).max()).astype(np.float32)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("peak", [0.9, 1e-3])
@pytest.mark.parametrize("seconds", [1.5, 30.0])
def test_steady_noise_is_silence(slope: float, peak: float, seconds: float) -> None:
    assert is_silent(peak * _noise(slope, seconds))


def test_nothing_and_less_than_one_step_are_silence() -> None:
    assert is_silent(np.zeros(0, np.float32))
    assert is_silent(np.zeros(100, np.float32))
    assert is_silent(1e-5 * _noise(0.0, 1.0))


def test_a_steady_hum_is_silence() -> None:
    time_s = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    assert is_silent((0.3 * np.sin(2 * np.pi * 50 * time_s)).astype(np.float32))


@pytest.mark.parametrize("length_s", [0.1, 0.4])
def test_one_short_sound_in_a_long_noise_is_heard(length_s: float) -> None:
    samples = 0.05 * _noise(0.0, 30.0)
    n = round(length_s * SAMPLE_RATE)
    start = 10 * SAMPLE_RATE
    samples[start : start + n] += (0.1 * np.sin(2 * np.pi * 700 * np.arange(n) / SAMPLE_RATE)).astype(
        np.float32
    )
    assert not is_silent(samples)


def test_what_is_too_short_to_tell_is_heard() -> None:
    assert not is_silent(0.1 * _noise(0.0, 1.0))
