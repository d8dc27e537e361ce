"""Word confidence from the acoustic posteriors alone.

Tsallis entropy with alpha = 1/3, linear normalisation, minimum over a word's tokens, after Laptev and
Ginsburg, "Fast entropy-based methods of word-level confidence estimation" (arXiv 2212.08703). Not calibrated:
it ranks words, and its value is no probability of being right (`asr.decoding.calibration` makes one of it).
The paper's exponential normalisation ranks frames alike, but with hundreds of outputs gives 1e-8 for good
words, which nobody can read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALPHA = 1.0 / 3.0


def frame_confidence(log_probs_TV: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Natural-log posteriors (T, V) -> (T,) in 0-1: 1 where one label has all the mass, 0 where all equal.

    Entropy H = (sum of p^alpha - 1) / (1 - alpha), normalised as 1 - H / H_max.
    """
    log_probs = np.asarray(log_probs_TV, dtype=np.float64)
    n_labels = log_probs.shape[1]
    if n_labels < 2:
        return np.ones(len(log_probs))
    entropy_T = (np.exp(ALPHA * log_probs).sum(axis=1) - 1.0) / (1.0 - ALPHA)
    most = (n_labels ** (1.0 - ALPHA) - 1.0) / (1.0 - ALPHA)
    confidence_T: NDArray[np.float64] = np.clip(1.0 - entropy_T / most, 0.0, 1.0)
    return confidence_T


def token_peaks(
    log_probs_TV: NDArray[np.floating[Any]], ids: Sequence[int], spans: Sequence[tuple[int, int]]
) -> list[int]:
    """The frame of each aligned token (`spans`: frames [start, end)) on which it is most probable."""
    log_probs = np.asarray(log_probs_TV)
    return [start + int(log_probs[start:end, i].argmax()) for i, (start, end) in zip(ids, spans, strict=True)]


def token_confidence(
    log_probs_TV: NDArray[np.floating[Any]], ids: Sequence[int], spans: Sequence[tuple[int, int]]
) -> list[float]:
    """Confidence 0-1 of each aligned token, taken on its peak.

    The frame's confidence is multiplied by p(token) / p(best label). For greedy text that factor is 1 and
    this is the paper's measure; a token that beam search chose against the acoustics (certain of something
    else) gets a low value.
    """
    peaks = token_peaks(log_probs_TV, ids, spans)
    if not peaks:
        return []
    peaks_NV = np.asarray(log_probs_TV, dtype=np.float64)[peaks]
    share_N = np.exp(peaks_NV[np.arange(len(peaks)), list(ids)] - peaks_NV.max(axis=1))
    shares: list[float] = (frame_confidence(peaks_NV) * share_N).tolist()
    return shares
