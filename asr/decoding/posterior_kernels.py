"""Posteriors divided by labels' priors and thinned out to what beam search tries, compiled.

Shapes: T frames, V CTC outputs (blank included), K labels tried per frame at most.
"""

import math

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel

_NEVER = -np.inf


@kernel
def divide(
    log_probs_TV: NDArray[np.float64], prior_V: NDArray[np.float64], divided_TV: NDArray[np.float64]
) -> None:
    """Writes log-probabilities less the labels' weighted log-priors, normalised again over each frame."""
    for t in range(len(log_probs_TV)):
        divide_frame(log_probs_TV[t], prior_V, divided_TV[t])


@inner_kernel
def divide_frame(
    frame_V: NDArray[np.float64], prior_V: NDArray[np.float64], divided_V: NDArray[np.float64]
) -> None:
    best = _NEVER
    for v in range(len(frame_V)):
        divided_V[v] = frame_V[v] - prior_V[v]
        best = max(best, divided_V[v])
    total = 0.0
    for v in range(len(frame_V)):
        total += math.exp(divided_V[v] - best)
    norm = best + math.log(total)
    for v in range(len(frame_V)):
        divided_V[v] -= norm


@kernel
def keep_best(
    log_probs_TV: NDArray[np.float64],
    prior_V: NDArray[np.float64],
    min_logp: float,
    best: NDArray[np.int64],
    kept_TV: NDArray[np.float64],
) -> int:
    """Writes the log-probabilities of each frame's candidates, and -inf for all others.

    prior_V: weighted log-priors to divide by; empty: none are. best: (K,) room. Returns how many frames were
    written: a frame without a finite best label is the last that was looked at.
    """
    for t in range(len(log_probs_TV)):
        if not has_best(log_probs_TV[t]):
            return t
        if len(prior_V):
            divide_frame(log_probs_TV[t], prior_V, kept_TV[t])
        else:
            for v in range(log_probs_TV.shape[1]):
                kept_TV[t, v] = log_probs_TV[t, v]
        thin_out(kept_TV[t], min_logp, best)
    return len(log_probs_TV)


@inner_kernel
def has_best(frame_V: NDArray[np.float64]) -> bool:
    """Whether the largest value is finite, and none is NaN."""
    best = _NEVER
    for value in frame_V:
        if math.isnan(value):
            return False
        best = max(best, value)
    return math.isfinite(best)


@inner_kernel
def thin_out(frame_V: NDArray[np.float64], min_logp: float, best: NDArray[np.int64]) -> None:
    """Sets labels to -inf: all but the best, and the K best that reach `min_logp`, lower id first on ties."""
    top, n = 0, 0
    for v in range(len(frame_V)):
        if frame_V[v] > frame_V[top]:
            top = v
        if frame_V[v] >= min_logp:
            n += 1
    best_logp, size = frame_V[top], 0
    crowded = n > len(best)
    if crowded:  # the best so far, best first
        for v in range(len(frame_V)):
            if frame_V[v] < min_logp or (size == len(best) and frame_V[v] <= frame_V[best[size - 1]]):
                continue
            size = min(size + 1, len(best))
            place = size - 1
            while place > 0 and frame_V[v] > frame_V[best[place - 1]]:
                best[place] = best[place - 1]
                place -= 1
            best[place] = v
        # What is worse than the last of them goes, and of its equals those that found no place.
        last = best[size - 1]
        for v in range(len(frame_V)):
            if frame_V[v] < frame_V[last] or (frame_V[v] == frame_V[last] and v > last):
                frame_V[v] = _NEVER
    else:
        for v in range(len(frame_V)):
            if frame_V[v] < min_logp:
                frame_V[v] = _NEVER
    frame_V[top] = best_logp
