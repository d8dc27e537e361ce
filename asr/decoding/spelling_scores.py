"""Texts scored by how their words are spelled in pieces, given an acoustic model's piece posteriors.

Beam search sums the spellings and paths of a text that it kept; this is the whole sum, for texts that others
have found.

Shapes: T frames, V pieces (blank included).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.spelling_kernels import Letters, Spelled, SpellingSums, score_spelled
from asr.decoding.text_arrays import texts_of
from asr.decoding.text_trie import TextTrie, text_logps, text_trie
from asr.decoding.word_trie import ROOT, build_trie, letter_codes
from asr.tokenizer import WORD_MARK

# More are rare: letters of the words after the same words, sums of those words, and words that may fill all
# frames with sums.
_MANY_LETTERS, _MANY_SUMS, _MANY_WORDS = 512, 1024, 128


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
        spelled, n_words, ends = self._spelled(trie), len(trie.depth), np.zeros(len(trie.depth))
        longest = int(np.diff(trie.words.first).max())
        deepest = int(trie.depth.max())
        letters = _letters(_MANY_LETTERS + longest, self._longest, longest)
        sums = _sums(n_words, deepest, _MANY_WORDS * (len(scaled_TV) + 1) + _MANY_SUMS * deepest)
        scored = score_spelled(scaled_TV, spelled, letters, sums, ends, 0)
        while scored < n_words:  # goes on where there was no room
            sums = _longer(sums)
            letters = _letters(2 * len(letters.total), self._longest, longest)
            scored = score_spelled(scaled_TV, spelled, letters, sums, ends, scored)
        return ends

    def _spelled(self, trie: TextTrie) -> Spelled:
        return Spelled(
            depth=trie.depth,
            word=trie.word,
            beside=trie.beside,
            first_letter=trie.words.first,
            letters=self._codes[np.minimum(trie.words.points, len(self._codes) - 1)],
            pieces=self._trie,
            mark=self._mark,
            longest_piece=self._longest,
        )


def _letters(n_nodes: int, longest_piece: int, longest_word: int) -> Letters:
    n_edges = n_nodes * (longest_piece + 1)
    return Letters(
        first=np.zeros(n_nodes + 1, np.int64),
        blank=np.zeros(n_nodes),
        total=np.zeros(n_nodes),
        begin=np.zeros(n_edges, np.int64),
        piece=np.zeros(n_edges, np.int64),
        same=np.zeros(n_edges, np.int64),
        state=np.zeros(n_edges),
        path=np.zeros(longest_word + 1, np.int64),
        walked=np.zeros(longest_word + 1, np.int64),
    )


def _sums(n_words: int, deepest: int, size: int) -> SpellingSums:
    return SpellingSums(
        start=np.zeros(deepest + 1, np.int64),
        length=np.zeros(deepest + 1, np.int64),
        at=np.zeros(deepest + 2, np.int64),
        n_words=np.zeros(deepest + 1, np.int64),
        log_scale=np.zeros(deepest + 1),
        row=np.zeros(n_words, np.int64),
        whole=np.zeros(n_words, np.int64),
        end=np.zeros(n_words, np.int64),
        whole_edge=np.zeros(n_words, np.int64),
        values=np.empty(size),
    )


def _longer(sums: SpellingSums) -> SpellingSums:
    """With twice the room, and the sums that there are."""
    values = np.empty(2 * len(sums.values))
    values[: len(sums.values)] = sums.values
    return sums._replace(values=values)
