"""A trie over the letters of all words: which words an unfinished one may become, and how likely the best is.

Nodes are numbered level by level (depth by depth, words in order), so the children of a node are neighbours.

Shapes: W words, N nodes, L letters of the longest word.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel

ROOT = 0  # no letter yet
OUTSIDE = -1  # no word begins so
SPACE = 0  # the letter codes begin at 1


class WordTrie(NamedTuple):
    """Nodes as kernels read them. A trie without a word lets every letter lead to OUTSIDE."""

    first_child: NDArray[np.int32]  # (N + 1,); a node's children end where the next node's begin
    letter: NDArray[np.int32]  # (N,) that leads to the node
    word: NDArray[np.int32]  # (N,) number of the word that ends here, -1: none
    ahead: NDArray[np.float64]  # (N,) highest value of the words below, this one included


def letter_codes(texts: Sequence[str]) -> dict[str, int]:
    """A code from 1 on for every character of the texts; SPACE is 0."""
    return {c: i for i, c in enumerate(sorted(set().union(*texts) - {" "}), 1)}


def build_trie(
    words: Sequence[str], numbers: NDArray[np.int64], values: NDArray[np.float64], codes: Mapping[str, int]
) -> WordTrie:
    """numbers, values: (W,) of the words, all different. Words with other letters are left out."""
    letters = frozenset(codes)
    kept = [i for i, word in enumerate(words) if word and letters.issuperset(word)]
    kept.sort(key=words.__getitem__)  # codes ascend as characters do
    letters_WL = _letter_matrix([words[i] for i in kept], codes)
    lengths_W = (letters_WL > 0).sum(axis=1)
    shared_W = _shared_with_previous(letters_WL)
    firsts: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]  # first word below each node, depth by depth
    letter, parent = [np.zeros(1, np.int64)], [np.full(1, -1)]
    n_nodes = 1
    for depth in range(letters_WL.shape[1]):
        first = np.flatnonzero((shared_W <= depth) & (lengths_W > depth))
        above = n_nodes - len(firsts[-1])
        parent.append(above + np.searchsorted(firsts[-1], first, side="right") - 1)
        letter.append(letters_WL[first, depth])
        firsts.append(first)
        n_nodes += len(first)
    parents_N, first_words_N = np.concatenate(parent), np.concatenate(firsts)
    depths_N = np.repeat(np.arange(len(firsts)), [len(first) for first in firsts])
    word_N, ahead_N = np.full(n_nodes, -1), np.full(n_nodes, -np.inf)
    if kept:
        ends = np.flatnonzero(lengths_W[first_words_N] == depths_N)
        chosen = np.array(kept)[first_words_N[ends]]
        word_N[ends], ahead_N[ends] = numbers[chosen], values[chosen]
    for below in np.split(np.arange(n_nodes), np.cumsum([len(f) for f in firsts])[:-1])[:0:-1]:
        np.maximum.at(ahead_N, parents_N[below], ahead_N[below])
    first_child = np.searchsorted(parents_N[1:], np.arange(n_nodes + 1)) + 1
    return WordTrie(
        first_child.astype(np.int32),
        np.concatenate(letter).astype(np.int32),
        word_N.astype(np.int32),
        ahead_N,
    )


@inner_kernel
def walk(trie: WordTrie, node: int, letter: int) -> int:
    """The node one letter further, OUTSIDE when no word goes on so."""
    if node < 0:
        return OUTSIDE
    for child in range(trie.first_child[node], trie.first_child[node + 1]):
        if trie.letter[child] == letter:
            return child
    return OUTSIDE


def _letter_matrix(words: Sequence[str], codes: Mapping[str, int]) -> NDArray[np.int64]:
    """(W, L): letter codes, 0 behind a word's end."""
    longest = max(map(len, words), default=0)
    points = np.frombuffer("".join(w.ljust(longest, "\0") for w in words).encode("utf-32-le"), "<u4")
    table = np.zeros(int(points.max(initial=0)) + 1, np.int64)
    for character, code in codes.items():
        if ord(character) < len(table):
            table[ord(character)] = code
    letters_WL: NDArray[np.int64] = table[points].reshape(len(words), longest)
    return letters_WL


def _shared_with_previous(letters_WL: NDArray[np.int64]) -> NDArray[np.int64]:
    """(W,): how many letters each word begins with as the one before it does."""
    if not letters_WL.size:
        return np.zeros(len(letters_WL), np.int64)
    differs = letters_WL[1:] != letters_WL[:-1]
    return np.concatenate([[0], np.where(differs.any(axis=1), differs.argmax(axis=1), letters_WL.shape[1])])
