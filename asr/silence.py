"""Recordings in which nothing can have been said: the acoustic model is not asked about them.

It has heard speech only, and scales every recording to one loudness: on steady noise it writes words. Speech
is never steady: over the 842 recordings of our dev and test sets the measure below is 18 dB and more, for
white, pink and brown noise less than 1.
"""

import numpy as np
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE
from asr.levels import mean_power, peak

SILENCE_PEAK = 2.0**-15  # one step of 16-bit audio: nothing below it was ever recorded
STEADY_DB = 3.0  # the loudest piece over the quieter ones
STEADY_S = 1.5  # shorter recordings are too short to tell
_PIECE = SAMPLE_RATE // 10  # samples
_FLOOR = 1e-14  # power of nothing at all


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Whether 16 kHz mono samples, in -1..1, hold nothing, or only noise as steady as a fan's."""
    return not len(samples) or peak(samples) < SILENCE_PEAK or _is_steady(samples)


def _is_steady(samples: NDArray[np.float32]) -> bool:
    """No tenth of a second is louder than the rest. Low frequencies, which waver, count less."""
    if len(samples) < STEADY_S * SAMPLE_RATE:
        return False
    level_db = 10.0 * np.log10(mean_power(np.diff(samples), _PIECE) + _FLOOR)
    return bool(level_db.max() - np.percentile(level_db, 10) < STEADY_DB)
