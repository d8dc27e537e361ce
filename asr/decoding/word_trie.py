"""A trie over the letters of all words: which words an unfinished one may become, and how likely the best is.

Nodes are numbered level by level (depth by depth, words in order), so the children of a node are neighbours.

Shapes: W words, N nodes, L letters of the longest word.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

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
    nodes = laid_out(_letter_matrix([words[i] for i in kept], codes))
    word_N, ahead_N = np.full(len(nodes.code), -1), np.full(len(nodes.code), -np.inf)
    word_N[nodes.end], ahead_N[nodes.end] = numbers[kept], values[kept]
    for first, last in reversed(list(pairwise(nodes.levels[1:]))):
        np.maximum.at(ahead_N, nodes.parent[first:last], ahead_N[first:last])
    return WordTrie(
        nodes.first_child.astype(np.int32), nodes.code.astype(np.int32), word_N.astype(np.int32), ahead_N
    )


class Nodes(NamedTuple):
    """The nodes of a trie, level by level."""

    levels: Sequence[int]  # where each depth's nodes begin, and the number of all
    first_child: NDArray[np.int64]  # (N + 1,)
    code: NDArray[np.int64]  # (N,) that leads to the node; the root's is 0
    parent: NDArray[np.int64]  # (N,) the root's is -1
    end: NDArray[np.int64]  # (W,) where each row ends


def laid_out(codes_WL: NDArray[np.integer[Any]]) -> Nodes:
    """The trie of rows of codes, which are sorted and end in zeros; no other code is 0."""
    lengths_W = (codes_WL > 0).sum(axis=1)
    shared_W = _shared_with_previous(codes_WL)
    code, parent = [np.zeros(1, np.int64)], [np.full(1, -1)]
    levels = [0, 1]
    above_W = end_W = np.zeros(len(codes_WL), np.int64)  # each row's node at the depth reached
    for depth in range(codes_WL.shape[1]):
        begins_W = (shared_W <= depth) & (lengths_W > depth)
        rows = np.flatnonzero(begins_W)
        parent.append(above_W[rows])
        code.append(codes_WL[rows, depth])
        above_W = levels[-1] + np.cumsum(begins_W) - 1
        end_W = np.where(lengths_W == depth + 1, above_W, end_W)
        levels.append(levels[-1] + len(rows))
    parents_N = np.concatenate(parent)
    first_child = np.searchsorted(parents_N[1:], np.arange(levels[-1] + 1)) + 1
    return Nodes(levels, first_child, np.concatenate(code).astype(np.int64), parents_N, end_W)


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


def _shared_with_previous(letters_WL: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """(W,): how many letters each word begins with as the one before it does."""
    if not letters_WL.size:
        return np.zeros(len(letters_WL), np.int64)
    differs = letters_WL[1:] != letters_WL[:-1]
    return np.concatenate([[0], np.where(differs.any(axis=1), differs.argmax(axis=1), letters_WL.shape[1])])
