"""Log-mel features:

lengths, normalisation, edge cases. Values against torchaudio: test_features_golden.py.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.features import FeatureSettings, log_mel, n_frames, raw_log_mel

SETTINGS = FeatureSettings()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4000))
def test_number_of_frames(n_samples: int) -> None:
    features_TF = log_mel(np.zeros(n_samples, np.float32), SETTINGS)
    assert features_TF.shape == (n_frames(n_samples, SETTINGS), SETTINGS.n_mels)
    assert torch.isfinite(features_TF).all()


def test_loudness_does_not_change_features() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    torch.testing.assert_close(
        log_mel(samples, SETTINGS), log_mel(samples * 0.5, SETTINGS), atol=1e-3, rtol=1e-3
    )


def test_mean_is_taken_away() -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32)
    features_TF = log_mel(samples, SETTINGS)
    torch.testing.assert_close(features_TF.mean(0), torch.zeros(80), atol=1e-5, rtol=0)
    raw_TF = raw_log_mel(samples, SETTINGS)
    torch.testing.assert_close((raw_TF - raw_TF.mean(0)) / SETTINGS.scale, features_TF)


def test_variance_makes_recordings_of_any_dynamic_range_alike() -> None:
    varied = FeatureSettings(variance=True)
    rng = np.random.default_rng(2)
    loud_and_quiet = rng.normal(0, 0.1, 16000) * np.repeat([1.0, 0.01], 8000)
    features_TF = log_mel(loud_and_quiet.astype(np.float32), varied)
    assert float(features_TF.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(features_TF.mean(0), torch.zeros(80), atol=1e-5, rtol=0)
    noisier_TF = log_mel((loud_and_quiet + rng.normal(0, 0.01, 16000)).astype(np.float32), varied)
    assert float(noisier_TF.std(correction=0)) == pytest.approx(1.0, abs=1e-4)


def test_variance_does_not_blow_up_silence() -> None:
    almost_silent = np.random.default_rng(3).normal(0, 1e-9, 8000).astype(np.float32)
    assert float(log_mel(almost_silent, FeatureSettings(variance=True)).abs().max()) < 0.1


def test_tone_falls_into_its_band() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    band = int(raw_log_mel(tone, SETTINGS)[50].argmax())
    corners = np.linspace(*(2595 * np.log10(1 + hz / 700) for hz in (20.0, 7600.0)), 82)
    assert abs(band - (np.searchsorted(corners, 2595 * np.log10(1 + 1000 / 700)) - 1)) <= 1


@pytest.mark.parametrize("wrong", [{"low_hz": 9000.0}, {"window_ms": 40.0}, {"hop_ms": 10.03}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"need|fit|whole"):
        _ = FeatureSettings(**wrong).hop_length


def test_empty_waveform_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        log_mel(np.zeros(0, np.float32), SETTINGS)
