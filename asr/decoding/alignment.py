"""Where the words of a text lie on the frames: CTC forced alignment (Viterbi), tokens grouped into words.

Shapes: T frames, V CTC outputs, N tokens, S = 2N + 1 states (blank, token, blank, ..., token, blank).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.posteriors import checked_log_probs
from asr.tokenizer import WORD_MARK, Tokenizer

_LOG_FLOOR = -1e6  # stands in for log 0, so that every path of the right shape can be compared
_STAY, _STEP, _SKIP = 0, 1, 2


def frames_needed(ids: Sequence[int]) -> int:
    """Fewest frames on which CTC can emit the tokens: one each, and a blank between equal neighbours."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def forced_align(
    log_probs_TV: NDArray[np.floating[Any]], ids: Sequence[int], blank_id: int = 0
) -> list[tuple[int, int]]:
    """Frames [start, end) of each token on the most probable path that spells `ids`.

    Natural-log posteriors (T, V). Spans are in order and do not overlap; blanks before, between and after
    belong to none. Takes T x S bytes. Raises ValueError when T is below `frames_needed(ids)`, on the
    blank among the ids, and on NaN.
    """
    log_probs = np.maximum(checked_log_probs(log_probs_TV), _LOG_FLOOR)
    n_frames = len(log_probs)
    if blank_id in ids:
        raise ValueError("the blank cannot be aligned as a token")
    if n_frames < frames_needed(ids):
        raise ValueError(f"{len(ids)} tokens need {frames_needed(ids)} frames, there are {n_frames}")
    if not ids:
        return []
    path_T = _viterbi(log_probs, np.asarray(ids), blank_id)
    tokens = np.arange(len(ids)) * 2 + 1
    starts, ends = np.searchsorted(path_T, tokens, "left"), np.searchsorted(path_T, tokens, "right")
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _viterbi(log_probs_TV: NDArray[np.float64], ids_N: NDArray[np.int64], blank_id: int) -> NDArray[np.int64]:
    """State of each frame on the best path; on ties the path that stays longest where it is."""
    n_frames, n_states = len(log_probs_TV), 2 * len(ids_N) + 1
    labels_S = np.full(n_states, blank_id)
    labels_S[1::2] = ids_N
    may_skip_S = np.zeros(n_states, dtype=bool)
    may_skip_S[3::2] = ids_N[1:] != ids_N[:-1]
    moves_TS = np.zeros((n_frames, n_states), dtype=np.uint8)
    arrivals_3S = np.full(
        (3, n_states), -np.inf
    )  # best score on arriving by staying, stepping, skipping a blank
    best_S = np.full(n_states, -np.inf)
    best_S[:2] = log_probs_TV[0, labels_S[:2]]
    for t in range(1, n_frames):
        arrivals_3S[_STAY] = best_S
        arrivals_3S[_STEP, 1:] = best_S[:-1]
        arrivals_3S[_SKIP, 2:] = np.where(may_skip_S[2:], best_S[:-2], -np.inf)
        moves_TS[t] = arrivals_3S.argmax(axis=0)
        best_S = arrivals_3S.max(axis=0) + log_probs_TV[t, labels_S]
    state = n_states - 1 if best_S[-1] >= best_S[-2] else n_states - 2
    path_T = np.empty(n_frames, dtype=np.int64)
    for t in range(n_frames - 1, -1, -1):
        path_T[t] = state
        state -= int(moves_TS[t, state])
    return path_T


@dataclass(frozen=True)
class PlacedWord:
    """A word on the frames. Without tokens where they do not fit, see `place_words`."""

    word: str
    start: float  # frames from the beginning; whole numbers where the tokens are aligned
    end: float
    ids: tuple[int, ...] = ()  # its tokens
    spans: tuple[tuple[int, int], ...] = ()  # the frames [start, end) of each


def place_words(log_probs_TV: NDArray[np.floating[Any]], text: str, tokenizer: Tokenizer) -> list[PlacedWord]:
    """The words of `text` in order on natural-log posteriors (T, V), never overlapping.

    A word lasts from its first token's first frame to its last token's last. The tokens are
    `tokenizer.encode(text)`, which need not be those that a decoder emitted (a text has several
    segmentations) and may even need more frames than there are: then words share the speech in proportion to
    their letters. Raises TextError when the text cannot be spelled, ValueError on a wrong shape or NaN.
    """
    words = text.split()
    log_probs = checked_log_probs(log_probs_TV, tokenizer.vocab_size)
    ids = tokenizer.encode(" ".join(words))
    if not words:
        return []
    if frames_needed(ids) > len(log_probs):
        return _spread(log_probs, words, tokenizer.blank_id)
    spans = forced_align(log_probs, ids, tokenizer.blank_id)
    groups = _words_of(ids, tokenizer)
    assert len(groups) == len(words), "every word starts with a marked piece, or after a separator"
    return [
        PlacedWord(
            word, spans[group[0]][0], spans[group[-1]][1],
            tuple(ids[n] for n in group), tuple(spans[n] for n in group),
        )
        for word, group in zip(words, groups, strict=True)
    ]  # fmt: skip


def _words_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[list[int]]:
    """Positions of each word's tokens: a marked piece opens a word, a separator belongs to none."""
    groups: list[list[int]] = []
    separated = True
    for position, token in enumerate(ids):
        if token == tokenizer.separator_id:
            separated = True
            continue
        if separated or tokenizer.pieces[token].startswith(WORD_MARK):
            groups.append([])
            separated = False
        groups[-1].append(position)
    return groups


def _spread(log_probs_TV: NDArray[np.float64], words: Sequence[str], blank_id: int) -> list[PlacedWord]:
    """The fallback of `place_words`.

    Words lie side by side from the first to the last frame whose best label is no blank.
    """
    spoken = np.flatnonzero(log_probs_TV.argmax(axis=1) != blank_id) if len(log_probs_TV) else np.empty(0)
    first, last = (int(spoken[0]), int(spoken[-1]) + 1) if spoken.size else (0, len(log_probs_TV))
    letters = np.cumsum([0] + [len(word) for word in words])
    edges = (first + (last - first) * letters / letters[-1]).tolist()
    return [PlacedWord(word, *edge) for word, edge in zip(words, pairwise(edges), strict=True)]
