"""A recording on its way to words, before any decoder.

Shapes: T frames, F mel bands, V CTC outputs (blank included).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prepared:
    """A recording as the acoustic model reads it."""

    features: torch.Tensor  # (T, F), feature frames; T is 0 for silence and for less than one output frame
    duration_s: float  # of the decoded audio
    timings_ms: dict[str, float] = field(default_factory=dict)  # audio, features
    clipped: float = 0.0  # share of the samples at full scale
    silent: float = 0.0  # share of the time without sound


@dataclass(frozen=True)
class Posteriors:
    """What the acoustic model heard, from which every decoder starts."""

    log_probs: NDArray[np.float32]  # (T, V), natural logarithm; T is 0 where there were no features
    duration_s: float  # of the decoded audio
    timings_ms: dict[str, float] = field(default_factory=dict)  # audio, features, acoustic
