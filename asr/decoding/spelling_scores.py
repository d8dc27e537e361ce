"""Texts scored by how their words are spelled in pieces, given an acoustic model's piece posteriors.

Beam search sums the spellings and paths of a text that it kept; this is the whole sum, for texts that others
have found.

Shapes: T frames, V pieces (blank included).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.spelling_kernels import Edges, Spelled, SpellingSums, score_spelled
from asr.decoding.text_arrays import texts_of
from asr.decoding.text_trie import TextTrie, text_logps, text_trie
from asr.decoding.word_trie import ROOT, build_trie, letter_codes
from asr.tokenizer import WORD_MARK


class ExactSpelling:
    """The pieces of a tokenizer without a separator between words, by their letters. Thread-safe."""

    def __init__(self, pieces: Sequence[str]) -> None:
        """pieces: by CTC output, the blank's first, as the tokenizer has them."""
        codes = letter_codes(pieces)
        numbers = np.arange(1, len(pieces))
        self._trie = build_trie(pieces[1:], numbers, np.zeros(len(numbers)), codes)
        self._longest = max(map(len, pieces))
        children = range(int(self._trie.first_child[ROOT]), int(self._trie.first_child[ROOT + 1]))
        mark = codes[WORD_MARK]
        self._mark = next(node for node in children if self._trie.letter[node] == mark)
        self._codes = np.zeros(max(map(ord, codes)) + 2, np.int64)
        self._codes[[ord(letter) for letter in codes]] = list(codes.values())

    def logps(self, pieces_TV: NDArray[np.floating[Any]], texts: Sequence[str]) -> NDArray[np.float64]:
        """Natural-log probability of each text, however it is cut into pieces, given log-posteriors.

        It adds up all CTC paths of all spellings; about -690 below the best path stands for less, and for
        texts that cannot be spelled.
        """
        return self.trie_logps(pieces_TV, text_trie(texts_of(texts)))

    def trie_logps(self, pieces_TV: NDArray[np.floating[Any]], trie: TextTrie) -> NDArray[np.float64]:
        """The same of a trie's texts."""
        return text_logps(pieces_TV, trie, self._score)

    def _score(self, scaled_TV: NDArray[np.float64], trie: TextTrie) -> NDArray[np.float64]:
        spelled, deepest, ends = self._spelled(trie), int(trie.depth.max()), np.zeros(len(trie.depth))
        n_frames, longest = len(scaled_TV), int(np.diff(trie.words.first).max())
        edges = _edges(longest, self._longest)
        size = 3 * (n_frames + 1) * 2 + 3 * 64 * deepest
        while not score_spelled(scaled_TV, spelled, edges, _sums(deepest, size), ends):
            size = 2 * size + 3 * (n_frames + 1)
        return ends

    def _spelled(self, trie: TextTrie) -> Spelled:
        return Spelled(
            depth=trie.depth,
            word=trie.word,
            first_letter=trie.words.first,
            letters=self._codes[np.minimum(trie.words.points, len(self._codes) - 1)],
            pieces=self._trie,
            mark=self._mark,
        )


def _edges(longest_word: int, longest_piece: int) -> Edges:
    n_edges, n_places = (longest_word + 1) * longest_piece, longest_word + 1
    return Edges(
        first=np.zeros(n_places + 1, np.int64),
        begin=np.zeros(n_edges, np.int64),
        end=np.zeros(n_edges, np.int64),
        piece=np.zeros(n_edges, np.int64),
        same=np.zeros(n_edges, np.int64),
        state=np.zeros(n_edges),
        blank=np.zeros(n_places),
        reached=np.zeros(n_places),
    )


def _sums(deepest: int, size: int) -> SpellingSums:
    return SpellingSums(
        start=np.zeros(deepest + 1, np.int64),
        length=np.zeros(deepest + 1, np.int64),
        at=np.zeros(deepest + 2, np.int64),
        whole=np.zeros(deepest + 1, np.int64),
        log_scale=np.zeros(deepest + 1),
        values=np.empty(size),
    )
