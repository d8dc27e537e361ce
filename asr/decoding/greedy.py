"""Greedy CTC decoding: the best label of each frame, repeats and blanks removed (Graves et al. 2006)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.posteriors import checked_log_probs
from asr.decoding.result import Hypothesis, Scores
from asr.tokenizer import Tokenizer


def collapse(labels: Iterable[int], blank_id: int) -> list[int]:
    """One label per frame -> token ids: runs become one label, then blanks go."""
    ids: list[int] = []
    previous = blank_id
    for label in labels:
        if label not in (previous, blank_id):
            ids.append(label)
        previous = label
    return ids


def greedy(log_probs_TV: NDArray[np.floating[Any]], tokenizer: Tokenizer) -> Hypothesis:
    """The best path's text from natural-log posteriors (T, V); T may be 0.

    `acoustic` is the log-probability of that one path (beam search sums over all paths of a text, so its
    figure for the same text is at least as high); the other parts are 0. Raises ValueError on a wrong shape
    or NaN.
    """
    checked = checked_log_probs(log_probs_TV, tokenizer.vocab_size)
    ids = collapse(checked.argmax(axis=1).tolist(), tokenizer.blank_id)
    return Hypothesis(tokenizer.decode(ids), Scores(acoustic=float(checked.max(axis=1).sum())))
