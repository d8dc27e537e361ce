"""A lexicon's pronunciations as a tree over phone labels, for a beam search over phones.

The tree is of the lexicon alone, and any number of n-grams share it; `LexiconWords` is what one of them knows
of its words. Nodes are numbered level by level, so the children of a node are neighbours, in ascending order
of their labels.

Shapes: W words, R pronunciations, N nodes, E ends of words in nodes, L labels of the longest pronunciation.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import kernel
from asr.decoding.word_trie import laid_out
from asr.pronunciation import LexiconLabels

ROOT = 0  # no phone yet


class LexiconTree(NamedTuple):
    """Nodes as kernels read them."""

    first_child: NDArray[np.int32]  # (N + 1,); a node's children end where the next node's begin
    label: NDArray[np.int32]  # (N,) CTC output that leads to the node; the root's is 0
    first_word: NDArray[np.int32]  # (N + 1,) where in `words` the words pronounced so begin
    words: NDArray[np.int32]  # (E,) of the lexicon, by number


class LexiconWords(NamedTuple):
    """What an n-gram makes of a lexicon's words; natural logarithms."""

    number: NDArray[np.int32]  # (W,) the n-gram's, -1: it lacks the word, which is then never found
    ahead: NDArray[np.float64]  # (N,) highest value of the words at the node and below; the root's is 0
    step: NDArray[np.float64]  # (N,) e^(ahead - the parent's); 0 where no word is known


def build_tree(lexicon: LexiconLabels) -> LexiconTree:
    """The same word at the same node is there once."""
    lengths_R = np.diff(lexicon.first)
    longest = int(lengths_R.max(initial=0))
    labels_RL = np.zeros((len(lengths_R), longest), np.uint32)
    labels_RL[np.arange(longest) < lengths_R[:, None]] = lexicon.labels
    # As strings they are sorted in one go: by label, short ones first, then by word.
    order_R = (
        np.argsort(labels_RL.view(f"<U{longest}")[:, 0], kind="stable")
        if longest
        else np.arange(len(labels_RL))
    )
    nodes = laid_out(labels_RL[order_R])
    n_words, n_nodes = len(lexicon.words), len(nodes.code)
    ends = np.unique(nodes.end * max(n_words, 1) + lexicon.word[order_R])
    first_word = np.searchsorted(ends, np.arange(n_nodes + 1) * max(n_words, 1))
    return LexiconTree(
        nodes.first_child.astype(np.int32),
        nodes.code.astype(np.int32),
        first_word.astype(np.int32),
        (ends % max(n_words, 1)).astype(np.int32),
    )


def look_ahead(tree: LexiconTree, number: NDArray[np.int32], values: NDArray[np.float64]) -> LexiconWords:
    """number, values: (W,) of the lexicon's words; those with number -1 are left out."""
    n_nodes = len(tree.label)
    words = LexiconWords(number, np.full(n_nodes, -np.inf), np.zeros(n_nodes))
    _look_ahead(tree, words, values)
    return words


@kernel
def _look_ahead(tree: LexiconTree, words: LexiconWords, values: NDArray[np.float64]) -> None:
    """Fills in `ahead` and `step`, from the leaves on."""
    for node in range(len(tree.label) - 1, -1, -1):
        best = -np.inf
        for place in range(tree.first_word[node], tree.first_word[node + 1]):
            word = tree.words[place]
            if words.number[word] >= 0:
                best = max(best, values[word])
        for child in range(tree.first_child[node], tree.first_child[node + 1]):
            best = max(best, words.ahead[child])
        words.ahead[node] = best if node != ROOT else 0.0
        for child in range(tree.first_child[node], tree.first_child[node + 1]):
            if words.ahead[child] > -np.inf:
                words.step[child] = np.exp(words.ahead[child] - words.ahead[node])
