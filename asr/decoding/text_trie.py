"""Texts as a trie of words: what they begin with in common is there once.

Shapes: X texts, N words of the trie, W different words, T frames, V outputs of an acoustic model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel
from asr.decoding.text_arrays import Numbered, Texts, comes_before, number_of, numbered, room_for

_WORD, _ABOVE, _BELOW, _BESIDE = range(4)  # rows of the links between nodes, of which 0 is the root
_SPACE = np.uint32(ord(" "))


class TextTrie(NamedTuple):
    """Its words in depth-first order, those after the same words in alphabetical order."""

    words: Texts  # the different ones
    depth: NDArray[np.int64]  # (N,) of each word, from 1
    word: NDArray[np.int64]  # (N,) 0..W-1
    beside: NDArray[np.int64]  # (N,) place of the next word after the same words, or -1
    last: NDArray[np.int64]  # (X,) place of each text's last word among the N; -1 for a text without words


def text_trie(texts: Texts) -> TextTrie:
    """texts: words with spaces between them."""
    n_texts = len(texts.first) - 1
    most = (len(texts.points) + n_texts) // 2 + 1  # words that so many letters may be
    known = room_for(most, len(texts.points))
    links = np.empty((4, most + 1), np.int64)
    numbers, depth, word, beside, order = (np.empty(most, np.int64) for _ in range(5))
    first, last = np.zeros(n_texts + 1, np.int64), np.empty(n_texts, np.int64)
    n_words, n = _plant(texts, known, numbers, first, order, links, depth, word, beside, last)
    return TextTrie(numbered(known, n_words), depth[:n], word[:n], beside[:n], last)


def text_logps(
    log_probs_TV: NDArray[np.floating[Any]],
    trie: TextTrie,
    score: Callable[[NDArray[np.float64], TextTrie], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Natural-log probability of each text, (X,), given log-posteriors (T, V), the blank's first.

    score: what the words down to each of the trie are worth, (N,), given posteriors divided by each frame's
    largest; there is at least one word.
    """
    log_probs_TV = np.asarray(log_probs_TV, dtype=np.float64)
    best_T = log_probs_TV.max(axis=1, initial=-np.inf)
    logps = np.full(len(trie.last), log_probs_TV[:, 0].sum())
    if len(trie.depth):
        worded = trie.last >= 0
        ends = score(np.exp(log_probs_TV - best_T[:, None]), trie)
        logps[worded] = best_T.sum() + ends[trie.last[worded]]
    return logps


@kernel
def _plant(
    texts: Texts,
    known: Numbered,
    numbers: NDArray[np.int64],
    first: NDArray[np.int64],
    ranks: NDArray[np.int64],
    links: NDArray[np.int64],
    depth: NDArray[np.int64],
    word: NDArray[np.int64],
    beside: NDArray[np.int64],
    last: NDArray[np.int64],
) -> tuple[int, int]:
    """Fills in the trie. Returns the number of different words, and that of the trie's.

    numbers: room for the words of all texts, ranks: the same; first: (X + 1,) where each text's begin; links:
    (4, words + 1) room.
    """
    n_words = n = 0
    for i in range(len(last)):
        begin, end = texts.first[i], texts.first[i + 1]
        for place in range(begin, end + 1):
            if place < end and texts.points[place] != _SPACE:
                continue
            if place > begin:
                numbers[n] = number_of(texts.points, begin, place, known, n_words)
                n_words = max(n_words, numbers[n] + 1)
                n += 1
            begin = place + 1
        first[i + 1] = n
    rank_words(known, n_words, depth, ranks)
    return n_words, depth_first(numbers, first, ranks, links, depth, word, beside, last)


@inner_kernel
def rank_words(known: Numbered, n: int, order: NDArray[np.int64], ranks: NDArray[np.int64]) -> None:
    """Writes the alphabetical rank of each of n words. order: room."""
    for word in range(n):
        low, high = 0, word
        while low < high:
            middle = (low + high) >> 1
            if comes_before(known, word, order[middle]):
                high = middle
            else:
                low = middle + 1
        for place in range(word, low, -1):
            order[place] = order[place - 1]
        order[low] = word
    for rank in range(n):
        ranks[order[rank]] = rank


@inner_kernel
def depth_first(
    numbers: NDArray[np.int64],
    first: NDArray[np.int64],
    ranks: NDArray[np.int64],
    links: NDArray[np.int64],
    depth: NDArray[np.int64],
    word: NDArray[np.int64],
    beside: NDArray[np.int64],
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
            before, below = 0, links[_BELOW, node]
            while below and ranks[links[_WORD, below]] < ranks[numbers[k]]:
                before, below = below, links[_BESIDE, below]
            if not below or links[_WORD, below] != numbers[k]:
                n += 1
                links[_WORD, n], links[_ABOVE, n], links[_BELOW, n] = numbers[k], node, 0
                links[_BESIDE, n] = below
                if before:
                    links[_BESIDE, before] = n
                else:
                    links[_BELOW, node] = n
                below = n
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
    for node in range(1, n + 1):
        beside[links[_WORD, node]] = links[_WORD, links[_BESIDE, node]] if links[_BESIDE, node] else -1
    return n
