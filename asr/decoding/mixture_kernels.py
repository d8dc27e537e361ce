"""Asking two n-grams at once, exactly interpolated: compiled, without the GIL.

    P(word | words before) = weight x P2(word | words before) + (1 - weight) x P1(word | words before)

Each model has its own context, so nothing is approximated. Words are numbered as the first model numbers
them, and from there on those that only the second has; one model gives the other's own words probability 0.
A context holds the first model's in its first `CONTEXT_SIZE` places and the second's behind it.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import kernel
from asr.decoding.ngram_file import NgramArrays
from asr.decoding.ngram_kernels import CONTEXT_SIZE, Context, advance, begin_context, log10_probability


class Mixture(NamedTuple):
    """What is mixed into an n-gram. Without anything `numbers` is empty, and it is never asked."""

    ngram: NgramArrays  # the second model
    numbers: NDArray[np.int64]  # its numbers of the mixture's words; of those it lacks, its unknown word's
    first_size: int  # words of the first model
    weight: float  # of the second, between 0 and 1


@kernel
def begin_mixed(first: NgramArrays, mixture: Mixture, context: Context) -> None:
    """Writes both contexts at the start of a text."""
    begin_context(first, context[:CONTEXT_SIZE])
    begin_context(mixture.ngram, context[CONTEXT_SIZE:])


@kernel
def advance_mixed(first: NgramArrays, mixture: Mixture, context: Context, word: int, after: Context) -> float:
    """log10 P(word | context); writes the contexts after the word, which must be another array."""
    own = word if word < mixture.first_size else first.unknown
    logp = advance(first, context[:CONTEXT_SIZE], own, after[:CONTEXT_SIZE])
    return mix_in(mixture, context, word, logp, after)


@kernel
def mix_in(mixture: Mixture, context: Context, word: int, first_logp: float, after: Context) -> float:
    """The same where the first model has spoken: log10 of its P, and its context after the word written."""
    second_logp = advance(mixture.ngram, context[CONTEXT_SIZE:], mixture.numbers[word], after[CONTEXT_SIZE:])
    return interpolated(first_logp if word < mixture.first_size else -np.inf, second_logp, mixture.weight)


@kernel
def interpolated(first_logp: float, second_logp: float, weight: float) -> float:
    """log10 of the weighted sum of two probabilities given by their log10."""
    return math.log10((1.0 - weight) * 10.0**first_logp + weight * 10.0**second_logp)


@kernel
def score_mixed(
    first: NgramArrays, mixture: Mixture, words: NDArray[np.int64], context: Context, after: Context
) -> float:
    """log10 P of a whole text and its end; both contexts are room to work in."""
    begin_mixed(first, mixture, context)
    total = 0.0
    for word in words:
        total += advance_mixed(first, mixture, context, word, after)
        context, after = after, context
    return total + advance_mixed(first, mixture, context, first.end, after)


@kernel
def mixed_unigrams(
    first: NgramArrays, mixture: Mixture, words: NDArray[np.int64], logps: NDArray[np.float64]
) -> None:
    """Writes log10 P of each word by itself."""
    for i in range(len(words)):
        word = words[i]
        own = log10_probability(first, 0, word) if word < mixture.first_size else -np.inf
        other = log10_probability(mixture.ngram, 0, mixture.numbers[word])
        logps[i] = interpolated(own, other, mixture.weight)
