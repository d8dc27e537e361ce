"""Where, within a pause, the quiet itself changes: the next speaker's room or microphone is another.

Cut there, each stretch has its own room's noise only, which its mean spectrum and deviation are taken over.

Shapes: N samples, T frames (one every 10 ms), F mel bands.
"""

import numpy as np
from numpy.typing import NDArray

from asr.audio import Samples
from asr.features import FeatureSettings, raw_log_mel

_FEATURES = FeatureSettings()  # whatever model will listen
_EDGE = 2  # frames at either end that reach beyond the pause
_FEWEST = 4  # frames on either side of a change
_CLEAR_SHARE = 0.3  # of the frames' variance that a change must explain


def change_in(samples: Samples) -> int | None:
    """Samples to the change in a pause (N,); None where there is no clear one."""
    log_mels_TF = raw_log_mel(samples, _FEATURES).numpy().astype(np.float64)[_EDGE:-_EDGE]
    if len(log_mels_TF) <= 2 * _FEWEST:
        return None
    frame, share = best_split(log_mels_TF)
    return (_EDGE + frame) * _FEATURES.hop_length if share > _CLEAR_SHARE else None


def best_split(frames_TF: NDArray[np.float64]) -> tuple[int, float]:
    """The frame at which a second part begins, so that two means explain most of the variance, and its share.

    Each part has `_FEWEST` frames at least. The share is 0-1; 0 where all frames are the same.
    """
    centred_TF = frames_TF - frames_TF.mean(axis=0)
    total = float((centred_TF**2).sum())
    if total <= 0.0:
        return len(frames_TF) // 2, 0.0
    n_before = np.arange(_FEWEST, len(frames_TF) - _FEWEST + 1)
    n_after = len(frames_TF) - n_before
    squares = (np.cumsum(centred_TF, axis=0)[n_before - 1] ** 2).sum(axis=1)  # the parts' sums are opposite
    explained = squares / n_before + squares / n_after
    best = int(explained.argmax())
    return int(n_before[best]), float(explained[best]) / total
