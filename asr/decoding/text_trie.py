"""Texts as a trie of words: what they begin with in common is there once.

Shapes: X texts, N words of the trie, W different words, T frames, V outputs of an acoustic model.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import kernel

_WORD, _ABOVE, _BELOW, _BESIDE = range(4)  # rows of the links between nodes, of which 0 is the root


class TextTrie(NamedTuple):
    """Its words in depth-first order."""

    words: list[str]  # the different ones
    depth: NDArray[np.int64]  # (N,) of each word, from 1
    word: NDArray[np.int64]  # (N,) 0..W-1
    last: NDArray[np.int64]  # (X,) place of each text's last word among the N; -1 for a text without words


def text_trie(texts: Sequence[str]) -> TextTrie:
    split = [text.split() for text in texts]
    flat = list(chain.from_iterable(split))
    words = list(dict.fromkeys(flat))
    number_of = dict(zip(words, range(len(words)), strict=True))
    numbers = np.fromiter(map(number_of.__getitem__, flat), np.int64, len(flat))
    first = np.cumsum([0, *map(len, split)], dtype=np.int64)
    links = np.empty((4, len(flat) + 1), np.int64)
    depth, word = (np.empty(len(flat), np.int64) for _ in range(2))
    last = np.empty(len(texts), np.int64)
    n = depth_first(numbers, first, links, depth, word, last)
    return TextTrie(words, depth[:n], word[:n], last)


def text_logps(
    log_probs_TV: NDArray[np.floating[Any]],
    texts: Sequence[str],
    score: Callable[[NDArray[np.float64], TextTrie], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Natural-log probability of each text, (X,), given log-posteriors (T, V), the blank's first.

    score: what the words down to each of the trie are worth, (N,), given posteriors divided by each frame's
    largest; there is at least one word.
    """
    log_probs_TV = np.asarray(log_probs_TV, dtype=np.float64)
    best_T = log_probs_TV.max(axis=1, initial=-np.inf)
    trie = text_trie(texts)
    logps = np.full(len(texts), log_probs_TV[:, 0].sum())
    if len(trie.depth):
        worded = trie.last >= 0
        ends = score(np.exp(log_probs_TV - best_T[:, None]), trie)
        logps[worded] = best_T.sum() + ends[trie.last[worded]]
    return logps


@kernel
def depth_first(
    numbers: NDArray[np.int64],
    first: NDArray[np.int64],
    links: NDArray[np.int64],
    depth: NDArray[np.int64],
    word: NDArray[np.int64],
    last: NDArray[np.int64],
) -> int:
    """Fills in the trie, and returns the number of its words.

    numbers: the words of all texts; first: (X + 1,) where each text's begin; links: (4, words + 1) room.
    """
    n = 0
    links[_ABOVE, 0] = links[_BELOW, 0] = links[_BESIDE, 0] = 0
    for i in range(len(last)):
        node = 0
        for k in range(first[i], first[i + 1]):
            below = links[_BELOW, node]
            while below and links[_WORD, below] != numbers[k]:
                below = links[_BESIDE, below]
            if not below:
                n += 1
                below = n
                links[_WORD, n], links[_ABOVE, n], links[_BELOW, n] = numbers[k], node, 0
                links[_BESIDE, n], links[_BELOW, node] = links[_BELOW, node], n
            node = below
        last[i] = node
    node, level, size = links[_BELOW, 0], 1, 0
    while node:
        depth[size], word[size] = level, links[_WORD, node]
        links[_WORD, node] = size  # not asked for any more: its place
        size += 1
        if links[_BELOW, node]:
            node, level = links[_BELOW, node], level + 1
            continue
        while node and not links[_BESIDE, node]:
            node, level = links[_ABOVE, node], level - 1
        node = links[_BESIDE, node]
    for i in range(len(last)):
        last[i] = links[_WORD, last[i]] if last[i] else -1
    return n
