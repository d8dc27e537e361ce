"""A small n-gram of a text that somebody has at hand, made on the spot.

Interpolated modified Kneser-Ney (Chen and Goodman, "An empirical study of smoothing techniques for language
modeling", 1999, section 3.3), as KenLM's lmplz estimates it (Heafield et al. 2013), over the words of the
text alone: a word that the text does not have has probability 0, and so has the unknown word. All of it is
counting whole columns, so ten thousand words take a few hundredths of a second.

Shapes: T tokens of all sentences, marks included; N n-grams of a level, which is also what a context has.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.decoding.arpa import BEGIN, END, NEVER, UNKNOWN, Level, NgramTable
from asr.text import normalise

ORDER = 3
_FALLBACK = (0.5, 1.0, 1.5)  # discounts where there is too little to estimate them from; lmplz has the same
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|[\r\n]+")

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]


def sentences_of(text: str) -> Iterator[list[str]]:
    """The words of each line and each sentence, spelled as transcripts are."""
    for part in _SENTENCE_END.split(text):
        if words := normalise(part).split():
            yield words


def text_table(sentences: Iterable[Sequence[str]], order: int = ORDER) -> NgramTable:
    """The model of some sentences' words. order: at least 2. Raises ValueError without a sentence."""
    texts = [[BEGIN, *words, END] for words in sentences]
    if not texts:
        raise ValueError("an n-gram needs a sentence")
    words = sorted({UNKNOWN}.union(*texts))
    numbers = {word: i for i, word in enumerate(words)}
    tokens_T = np.array([numbers[word] for words in texts for word in words], np.int64)
    sentence_T = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    everything = np.arange(len(words))
    counts = [_Counts(everything, tokens_T, everything, np.zeros(len(words), bool))]
    for n in range(2, order + 1):
        counts.append(_longer(counts[-1], tokens_T, sentence_T, n, len(words), numbers[BEGIN]))
    levels: list[Level] = []
    lower_N = np.full(len(words), 1.0 / (len(words) - 2))  # neither <s> nor <unk> is ever predicted
    for n, level in enumerate(counts):
        counts_N = _adjusted(level, counts[n + 1] if n + 1 < order else None)
        if n == 0:
            counts_N[numbers[BEGIN]] = 0
        contexts_N = level.keys // len(words) if n else np.zeros(len(words), np.int64)
        n_contexts = len(levels[-1].keys) if n else 1
        p_N, left_C = _smoothed(counts_N, contexts_N, n_contexts, lower_N[level.suffixes])
        if n:
            levels[-1] = Level(levels[-1].keys, levels[-1].logp, _log10(left_C, 0.0))
        else:
            p_N[[numbers[BEGIN], numbers[UNKNOWN]]] = 0.0
        levels.append(Level(level.keys, _log10(p_N, NEVER), np.zeros(len(p_N), np.float32)))
        lower_N = p_N
    return NgramTable(words, levels)


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one length, and where they occur."""

    keys: Numbers  # (N,) as in `asr.decoding.arpa.Level`
    places: Numbers  # (T,) of the n-gram that ends at each token, -1 where the sentence is not so long
    suffixes: Numbers  # (N,) places, one level down, without the n-grams' first word; of words, their own
    begins: NDArray[np.bool_]  # (N,) whether the first of several words is <s>


def _longer(
    shorter: _Counts, tokens_T: Numbers, sentence_T: Numbers, n: int, n_words: int, begin: int
) -> _Counts:
    """The n-grams of n words."""
    ends = np.flatnonzero(sentence_T[n - 1 :] == sentence_T[: len(sentence_T) - n + 1]) + n - 1
    keys_N, first_N, inverse = np.unique(
        shorter.places[ends - 1] * n_words + tokens_T[ends], return_index=True, return_inverse=True
    )
    places_T = np.full(len(tokens_T), -1)
    places_T[ends] = inverse
    begins_N = tokens_T[ends[first_N] - n + 1] == begin
    return _Counts(keys_N, places_T, shorter.places[ends[first_N]], begins_N)


def _adjusted(level: _Counts, longer: _Counts | None) -> Numbers:
    """(N,) what is estimated from: occurrences at the highest order and after <s>, where nothing stands
    before; else the number of different words before the n-gram."""
    occurrences_N = np.bincount(level.places[level.places >= 0], minlength=len(level.keys))
    if longer is None:
        return occurrences_N
    different_N = np.bincount(longer.suffixes, minlength=len(level.keys))
    return np.where(level.begins, occurrences_N, different_N)


def _smoothed(
    counts_N: Numbers, contexts_N: Numbers, n_contexts: int, lower_N: Floats
) -> tuple[Floats, Floats]:
    """Probability of each n-gram, and of each context (C,) the share that is left to the lower order.

    lower_N: the lower order's probability of each n-gram's last word. Contexts that nothing follows leave 1.
    """
    discounts_N = np.array([0.0, *_discounts(counts_N)])[np.minimum(counts_N, 3)]
    total_C = np.bincount(contexts_N, weights=counts_N, minlength=n_contexts)
    taken_C = np.bincount(contexts_N, weights=discounts_N, minlength=n_contexts)
    left_C = np.divide(taken_C, total_C, out=np.ones(n_contexts), where=total_C > 0)
    own_N = (counts_N - discounts_N) / np.maximum(total_C[contexts_N], 1)
    return own_N + left_C[contexts_N] * lower_N, left_C


def _discounts(counts_N: Numbers) -> tuple[float, float, float]:
    """What is taken from counts of 1, 2, and 3 and more."""
    n1, n2, n3, n4 = (int((counts_N == k).sum()) for k in (1, 2, 3, 4))
    if not n1 or not n2 or not n3 or not n4:
        return _FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 < d <= k for k, d in enumerate(found, 1)) else _FALLBACK


def _log10(values_N: Floats, of_zero: float) -> NDArray[np.float32]:
    logs_N = np.full(len(values_N), of_zero)
    np.log10(values_N, out=logs_N, where=values_N > 0)
    return logs_N.astype(np.float32)
