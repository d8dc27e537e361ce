"""Texts scored by how their words are pronounced, given an acoustic model's phone posteriors.

Shapes: T frames, P phones (blank included).
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asr.decoding.pronunciation_kernels import Sums, WordTries, score_tries
from asr.decoding.text_arrays import strings_of, texts_of
from asr.decoding.text_trie import TextTrie, text_logps, text_trie


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
    return trie_logps(phones_TP, text_trie(texts_of(texts)), pronunciations)


def trie_logps(
    phones_TP: NDArray[np.floating[Any]], trie: TextTrie, pronunciations: Pronouncing
) -> NDArray[np.float64]:
    """The same of a trie's texts."""
    return text_logps(phones_TP, trie, partial(_score, pronunciations))


def _score(
    pronunciations: Pronouncing, scaled_TP: NDArray[np.float64], trie: TextTrie
) -> NDArray[np.float64]:
    tries, deepest, ends = _pronounced(trie, pronunciations), int(trie.depth.max()), np.empty(len(trie.depth))
    most = int(np.diff(tries.first_pronunciation).max())
    room = (len(scaled_TP) + 1) * (most + 1)
    size = room + 4 * deepest * (most + 1) * 64
    while not score_tries(scaled_TP, tries, _sums(tries, deepest, len(scaled_TP), size), ends):
        size = 2 * size + room
    return ends


def _pronounced(trie: TextTrie, pronunciations: Pronouncing) -> WordTries:
    spoken = [pronunciations.of(word) for word in strings_of(trie.words)]
    flat = list(chain.from_iterable(spoken))
    first_phone = np.cumsum([0, *map(len, flat)], dtype=np.int64)
    return WordTries(
        depth=trie.depth,
        word=trie.word,
        first_pronunciation=np.cumsum([0, *map(len, spoken)], dtype=np.int64),
        first_phone=first_phone,
        phones=np.fromiter(chain.from_iterable(flat), np.int64, int(first_phone[-1])),
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
