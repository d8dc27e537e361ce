"""Asking an n-gram in arrays (`asr.decoding.ngram_file`): compiled, without the GIL.

A context is the numbers of the nodes of its suffixes: `context[n]` is the n-gram of the last n + 1 words, -1
where the model holds none. Scoring a word looks it up below every suffix, which gives both the probability
and the next context.
"""

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel
from asr.decoding.ngram_file import (
    BACKOFF_AT,
    BACKOFF_TABLE,
    BACKOFF_WIDTH,
    CHILD_AT,
    CHILD_WIDTH,
    COLUMNS,
    LOGP_AT,
    LOGP_TABLE,
    LOGP_WIDTH,
    MAX_ORDER,
    WORD_AT,
    NgramArrays,
)

Context = NDArray[np.int64]  # (CONTEXT_SIZE,)
CONTEXT_SIZE = MAX_ORDER - 1


@inner_kernel
def read_number(data: NDArray[np.uint8], at: int, width: int, index: int) -> int:
    """The number at a place of a section whose numbers take `width` bytes."""
    place = at + index * width
    number = np.int64(data[place])
    if width > 1:  # no loop: that would be unrolled and vectorised into pages of code
        number |= np.int64(data[place + 1]) << 8
    if width > 2:
        number |= np.int64(data[place + 2]) << 16
    if width > 3:
        number |= np.int64(data[place + 3]) << 24
    return int(number)


@inner_kernel
def find_child(lm: NgramArrays, level: int, parent: int, word: int) -> int:
    """The node of `level` (from 1 on) that continues a node of the level before with a word, or -1."""
    row = level * COLUMNS
    child_at, child_width = lm.layout[row - COLUMNS + CHILD_AT], lm.layout[row - COLUMNS + CHILD_WIDTH]
    low = read_number(lm.data, child_at, child_width, parent)
    end = high = read_number(lm.data, child_at, child_width, parent + 1)
    word_at = lm.layout[row + WORD_AT]
    while low < high:
        middle = (low + high) >> 1
        if read_number(lm.data, word_at, lm.word_width, middle) < word:
            low = middle + 1
        else:
            high = middle
    if low < end and read_number(lm.data, word_at, lm.word_width, low) == word:
        return low
    return -1


@inner_kernel
def log10_probability(lm: NgramArrays, level: int, node: int) -> float:
    row = level * COLUMNS
    code = read_number(lm.data, lm.layout[row + LOGP_AT], lm.layout[row + LOGP_WIDTH], node)
    return float(lm.values[lm.layout[row + LOGP_TABLE] + code])


@inner_kernel
def log10_backoff(lm: NgramArrays, level: int, node: int) -> float:
    row = level * COLUMNS
    code = read_number(lm.data, lm.layout[row + BACKOFF_AT], lm.layout[row + BACKOFF_WIDTH], node)
    return float(lm.values[lm.layout[row + BACKOFF_TABLE] + code])


@kernel
def unigrams(lm: NgramArrays, words: NDArray[np.int64], logps: NDArray[np.float64]) -> None:
    """Writes log10 P of each word by itself."""
    for i in range(len(words)):
        logps[i] = log10_probability(lm, 0, words[i])


@kernel
def begin_context(lm: NgramArrays, context: Context) -> None:
    """Writes the context at the start of a text."""
    for k in range(len(context)):
        context[k] = -1
    context[0] = lm.begin


@kernel
def advance(lm: NgramArrays, context: Context, word: int, after: Context) -> float:
    """log10 P(word | context); writes the context after the word, which must be another array."""
    for k in range(len(after)):
        after[k] = -1
    found, logp, backoffs = False, 0.0, 0.0
    for level in range(lm.order - 1, -1, -1):
        node = word
        if level > 0:
            parent = context[level - 1]
            node = find_child(lm, level, parent, word) if parent >= 0 else -1
            if not found and node < 0 and parent >= 0:
                backoffs += log10_backoff(lm, level - 1, parent)
        if not found and node >= 0:
            found, logp = True, backoffs + log10_probability(lm, level, node)
        if level < lm.order - 1:
            after[level] = node
    return logp


@kernel
def score_words(lm: NgramArrays, words: NDArray[np.int64], context: Context, after: Context) -> float:
    """log10 P of a whole text and its end; both contexts are room to work in."""
    begin_context(lm, context)
    total = 0.0
    for word in words:
        total += advance(lm, context, word, after)
        context, after = after, context
    return total + advance(lm, context, lm.end, after)
