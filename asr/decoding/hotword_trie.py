"""A caller's words and phrases as one automaton over letters, for native beam search.

Every phrase is spelled with a space behind each word, and read from word starts only: a state is the longest
end of a text, from a word's start on, that begins a phrase (Aho and Corasick 1975). A state beyond a phrase
costs nothing to leave: credit is a function of the state (`hope`), so failing takes it back, and only what a
completed phrase covers stays (`earned`). What is earned is `asr.decoding.hotwords.HotwordScorer`'s rule: each
word inside a full occurrence earns the weight once, and unknown words their penalty back.

Shapes: N states, C letter codes (0 is the space).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel
from asr.decoding.word_trie import SPACE

DEAD = 0  # inside a word that belongs to no phrase
START = 1  # at a word's start, no phrase begun
MAX_WORDS = 16  # of a phrase: as many bits are remembered of a text's last words
_MASK = (1 << MAX_WORDS) - 1


class HotwordTrie(NamedTuple):
    """The automaton as kernels read it; without phrases it has the states DEAD and START alone."""

    goto: NDArray[np.int32]  # (N, C) the next state
    words_done: NDArray[np.int32]  # (N,) finished words of the state
    inside: NDArray[np.int32]  # (N,) 1 where a word is unfinished
    completes: NDArray[np.int32]  # (N,) words of the longest phrase that ends at the state, 0: none
    share: NDArray[np.float64]  # (N,) of the unfinished word: letters / those of the shortest it may become


def build_hotwords(phrases: Sequence[str], codes: Mapping[str, int]) -> HotwordTrie:
    """phrases: words with single spaces between them, of at most MAX_WORDS, all letters in `codes`."""
    codes = {" ": SPACE, **codes}
    ends = np.cumsum([len(phrase) + 1 for phrase in phrases], dtype=np.int64)
    points = np.frombuffer("".join(f"{phrase} " for phrase in phrases).encode("utf-32-le"), "<u4")
    table = np.zeros(max(map(ord, codes)) + 1, np.int32)
    table[[ord(c) for c in codes]] = list(codes.values())
    letters = table[points]
    size = len(letters) + 2
    trie = HotwordTrie(
        goto=np.full((size, max(codes.values()) + 1), -1, np.int32),
        words_done=np.zeros(size, np.int32),
        inside=np.zeros(size, np.int32),
        completes=np.zeros(size, np.int32),
        share=np.zeros(size),
    )
    _build(letters, ends, trie, np.zeros(size, np.int32), np.empty(size, np.int64))
    return trie


@kernel
def _build(
    letters: NDArray[np.int32],
    ends: NDArray[np.int64],
    trie: HotwordTrie,
    left: NDArray[np.int32],
    order: NDArray[np.int64],
) -> None:
    """Fills the trie. left, order: room for the letters to the shortest word's end, and for a queue."""
    trie.inside[DEAD] = 1
    n_states, begin = 2, 0
    for end in ends:
        state, begun = START, begin  # begun: the first letter of the word at hand
        for place in range(begin, end):
            letter = letters[place]
            following = trie.goto[state, letter]
            if following < 0:
                following = n_states
                n_states += 1
                trie.goto[state, letter] = following
                trie.words_done[following] = trie.words_done[state] + (letter == SPACE)
                trie.inside[following] = letter != SPACE
                left[following] = len(letters)
            state = following
            if letter == SPACE:
                _shorten(trie, letters, left, begin, begun, place)
                begun = place + 1
        trie.completes[state] = trie.words_done[state]
        begin = end
    _close(trie, left, order)


@inner_kernel
def _shorten(
    trie: HotwordTrie,
    letters: NDArray[np.int32],
    left: NDArray[np.int32],
    begin: int,
    begun: int,
    stop: int,
) -> None:
    """Notes, for the states inside one word of a phrase, how far it is from its end where that is nearer."""
    state = START
    for place in range(begin, stop):
        state = trie.goto[state, letters[place]]
        if place >= begun:
            left[state] = min(left[state], stop - 1 - place)
            done = place - begun + 1
            trie.share[state] = done / (done + left[state])


@inner_kernel
def _close(trie: HotwordTrie, left: NDArray[np.int32], order: NDArray[np.int64]) -> None:
    """Every transition filled in, breadth first: a state fails to its longest end that begins a phrase."""
    fail = left  # no longer needed
    n_letters = trie.goto.shape[1]
    for letter in range(n_letters):
        trie.goto[DEAD, letter] = START if letter == SPACE else DEAD
    fail[START] = DEAD
    order[0] = START
    first, n = 0, 1
    while first < n:
        state = order[first]
        first += 1
        trie.completes[state] = max(trie.completes[state], trie.completes[fail[state]])
        for letter in range(n_letters):
            other = trie.goto[fail[state], letter]
            following = trie.goto[state, letter]
            if following < 0:
                trie.goto[state, letter] = other
            else:
                fail[following] = other
                order[n] = following
                n += 1


@inner_kernel
def ones(mask: int) -> int:
    """Bits set."""
    n = 0
    while mask:
        mask &= mask - 1
        n += 1
    return n


@inner_kernel
def hope(
    trie: HotwordTrie, state: int, covered: int, unknown: int, outside: bool, weight: float, penalty: float
) -> float:
    """Provisional credit of an unfinished phrase, for words that no finished one covers.

    covered, unknown: bits of the text's finished words, the last one lowest. outside: the unfinished word is
    no beginning of a known one. penalty: that unknown words were given.
    """
    if state <= START:
        return 0.0
    fresh = ((1 << trie.words_done[state]) - 1) & ~covered
    credit = weight * (ones(fresh) + trie.share[state]) - penalty * ones(fresh & unknown)
    if outside and trie.inside[state]:
        credit -= penalty
    return float(credit)


@inner_kernel
def finish_word(
    trie: HotwordTrie, state: int, covered: int, unknown: int, is_unknown: bool, weight: float, penalty: float
) -> tuple[int, int, int, float]:
    """State and bits after a word's end, and what it earned."""
    state = trie.goto[state, SPACE]
    covered, unknown = (covered << 1) & _MASK, ((unknown << 1) | is_unknown) & _MASK
    window = (1 << trie.completes[state]) - 1
    fresh = window & ~covered
    earned = weight * ones(fresh) - penalty * ones(fresh & unknown)
    return state, covered | window, unknown, earned
