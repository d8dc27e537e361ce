"""Texts scored by how their words are pronounced, given an acoustic model's phone posteriors.

Shapes: T frames, P phones (blank included).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.decoding.pronunciation_kernels import BLANK, Sums, WordTries, score_tries


class Pronouncing(Protocol):
    """What is needed of `asr.pronunciation.Pronunciations`."""

    def of(self, word: str) -> tuple[tuple[int, ...], ...]:
        """Each of the word's pronunciations as CTC outputs; at least one, none of them empty."""
        ...


def pronunciation_logps(
    phones_TP: NDArray[np.floating[Any]], texts: Sequence[str], pronunciations: Pronouncing
) -> NDArray[np.float64]:
    """Natural-log probability of each text's words, whatever their pronunciations, given log-posteriors.

    It adds up all CTC paths of all choices of pronunciations; about -690 below the best path stands for less.
    """
    log_probs_TP = np.asarray(phones_TP, dtype=np.float64)
    best_T = log_probs_TP.max(axis=1, initial=-np.inf)
    scaled_TP = np.exp(log_probs_TP - best_T[:, None])
    split = [tuple(text.split()) for text in texts]
    depths, nodes, node_of = depth_first(split)
    ends = np.zeros(len(nodes))
    if nodes:
        tries = _tries(depths, nodes, pronunciations)
        most = int(np.diff(tries.first_pronunciation).max())
        room = (len(scaled_TP) + 1) * (most + 1)
        size = room + 4 * max(depths) * (most + 1) * 64
        while not score_tries(scaled_TP, tries, _sums(tries, max(depths), len(scaled_TP), size), ends):
            size = 2 * size + room
    silent = float(log_probs_TP[:, BLANK].sum())
    total = float(best_T.sum())
    return np.array([total + ends[node_of[words]] if words else silent for words in split])


def depth_first(
    split: Sequence[tuple[str, ...]],
) -> tuple[list[int], list[str], dict[tuple[str, ...], int]]:
    """Depths and words of the trie's nodes in depth-first order, and each text's node."""
    depths: list[int] = []
    nodes: list[str] = []
    node_of: dict[tuple[str, ...], int] = {}
    before: tuple[str, ...] = ()
    for words in sorted(set(split)):
        shared = 0
        while shared < min(len(before), len(words)) and before[shared] == words[shared]:
            shared += 1
        for depth in range(shared, len(words)):
            depths.append(depth + 1)
            nodes.append(words[depth])
        node_of[words] = len(nodes) - 1
        before = words
    return depths, nodes, node_of


def _tries(depths: Sequence[int], nodes: Sequence[str], pronunciations: Pronouncing) -> WordTries:
    numbers = {word: number for number, word in enumerate(dict.fromkeys(nodes))}
    spoken = [pronunciations.of(word) for word in numbers]
    flat = [phones for variants in spoken for phones in variants]
    return WordTries(
        depth=np.array(depths, np.int64),
        word=np.array([numbers[word] for word in nodes], np.int64),
        first_pronunciation=np.cumsum([0, *map(len, spoken)], dtype=np.int64),
        first_phone=np.cumsum([0, *map(len, flat)], dtype=np.int64),
        phones=np.array([phone for phones in flat for phone in phones], np.int64),
    )


def _sums(tries: WordTries, deepest: int, n_frames: int, size: int) -> Sums:
    longest = int(np.diff(tries.first_phone).max())
    return Sums(
        start=np.zeros(deepest + 1, np.int64),
        length=np.zeros(deepest + 1, np.int64),
        at=np.zeros(deepest + 2, np.int64),
        word=np.zeros(deepest + 1, np.int64),
        log_scale=np.zeros(deepest + 1),
        values=np.empty(size),
        entry=np.zeros(n_frames + 1),
        states=np.zeros(2 * longest),
    )
