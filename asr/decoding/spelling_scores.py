"""Texts scored by how their words are spelled in pieces, given an acoustic model's piece posteriors.

Beam search sums the spellings and paths of a text that it kept; this is the whole sum, for texts that others
have found.

Shapes: T frames, V pieces (blank included).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.pronunciation_scores import depth_first
from asr.decoding.spelling_kernels import BLANK, Edges, Spelled, SpellingSums, score_spelled
from asr.decoding.word_trie import ROOT, build_trie, letter_codes
from asr.tokenizer import WORD_MARK


class Spelling:
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
        log_probs_TV = np.asarray(pieces_TV, dtype=np.float64)
        best_T = log_probs_TV.max(axis=1, initial=-np.inf)
        scaled_TV = np.exp(log_probs_TV - best_T[:, None])
        split = [tuple(text.split()) for text in texts]
        depths, nodes, node_of = depth_first(split)
        ends = np.zeros(len(nodes))
        if nodes:
            spelled = self._spelled(depths, nodes)
            n_frames, longest = len(scaled_TV), max(map(len, nodes))
            edges = _edges(longest, self._longest)
            size = 3 * (n_frames + 1) * 2 + 3 * 64 * max(depths)
            while not score_spelled(scaled_TV, spelled, edges, _sums(max(depths), size), ends):
                size = 2 * size + 3 * (n_frames + 1)
        silent, total = float(log_probs_TV[:, BLANK].sum()), float(best_T.sum())
        return np.array([total + ends[node_of[words]] if words else silent for words in split])

    def _spelled(self, depths: Sequence[int], nodes: Sequence[str]) -> Spelled:
        numbers = {word: number for number, word in enumerate(dict.fromkeys(nodes))}
        points = np.frombuffer("".join(numbers).encode("utf-32-le"), "<u4")
        return Spelled(
            depth=np.array(depths, np.int64),
            word=np.array([numbers[word] for word in nodes], np.int64),
            first_letter=np.cumsum([0, *map(len, numbers)], dtype=np.int64),
            letters=self._codes[np.minimum(points, len(self._codes) - 1)],
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
