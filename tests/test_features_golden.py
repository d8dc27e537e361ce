"""Our log-mel is torchaudio's, to 1e-4 in the log domain wherever the power is above the floor."""

import numpy as np

from asr.features import FeatureSettings, raw_log_mel
from tests.make_golden import GOLDEN


def test_log_mel_equals_torchaudio() -> None:
    settings = FeatureSettings()
    with np.load(GOLDEN) as golden:
        samples, mel_power_TF = golden["samples"], golden["mel_power_TF"]
    expected_TF = np.log(np.maximum(mel_power_TF, settings.floor))
    found_TF = raw_log_mel(samples, settings).numpy()
    assert found_TF.shape == expected_TF.shape
    # The bulk of the values must be real measurements, not the floor.
    assert np.mean(mel_power_TF > settings.floor) > 0.8
    np.testing.assert_allclose(found_TF, expected_TF, rtol=0, atol=1e-4)
