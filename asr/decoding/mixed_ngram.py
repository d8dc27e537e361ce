"""A text's own n-gram mixed into a bundle's, for one request.

It answers as `asr.decoding.array_ngram.ArrayNgram` does, the words of both being known.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import mixture_kernels
from asr.decoding.arpa import BEGIN, END
from asr.decoding.array_ngram import ArrayNgram, WordNgram
from asr.decoding.mixture_kernels import Mixture
from asr.decoding.ngram import NgramParts, perplexity
from asr.decoding.ngram_file import NgramArrays
from asr.decoding.ngram_kernels import CONTEXT_SIZE

_LN_10 = math.log(10.0)


class MixedNgram:
    """Both models' words; natural logarithms, as everywhere outside the kernels."""

    def __init__(self, first: ArrayNgram, second: ArrayNgram, weight: float) -> None:
        """weight: of the second in the mixture, between 0 and 1. Raises ValueError otherwise."""
        if not 0.0 < weight < 1.0:
            raise ValueError(f"a weight in a mixture is between 0 and 1, not {weight}")
        self.first = first
        self.second = second
        self.new_words: Sequence[str] = sorted(second.words - first.words)
        strangers = [word for word in self.new_words if word not in first.numbers]
        size = len(first.numbers)
        self._numbers = {word: size + i for i, word in enumerate(strangers)}
        numbers = np.full(size + len(strangers), second.arrays.unknown, np.int64)
        numbers[first.arrays.end] = second.arrays.end
        for word in second.words:
            numbers[self.number(word)] = second.number(word)
        self.mixture = Mixture(second.arrays, numbers, size, weight)

    @property
    def arrays(self) -> NgramArrays:
        """The first model's."""
        return self.first.arrays

    @property
    def order(self) -> int:
        return max(self.first.order, self.second.order)

    @cached_property
    def words(self) -> frozenset[str]:
        return self.first.words | self.second.words

    @cached_property
    def sorted_words(self) -> Sequence[str]:
        return sorted([*self.first.sorted_words, *self.new_words])

    def __contains__(self, word: object) -> bool:
        """Whether the word is in either vocabulary."""
        return word in self.first or word in self.second

    def has_prefix(self, prefix: str) -> bool:
        """Whether any word of the vocabularies starts with `prefix`."""
        return self.first.has_prefix(prefix) or self.second.has_prefix(prefix)

    def number(self, word: str) -> int:
        """The mixture's number of a word; unknown words have <unk>'s, and the marks their own."""
        if word in self._numbers:
            return self._numbers[word]
        if word in self.second or word in self.first or word in (BEGIN, END):
            return self.first.numbers[word]
        return self.first.arrays.unknown

    def unigrams(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """log10 P of words, by number, by themselves."""
        logps = np.empty(len(numbers))
        mixture_kernels.mixed_unigrams(self.arrays, self.mixture, numbers, logps)
        return logps

    def start_state(self) -> NDArray[np.int64]:
        """The contexts after <s>."""
        context = np.empty(2 * CONTEXT_SIZE, np.int64)
        mixture_kernels.begin_mixed(self.arrays, self.mixture, context)
        return context

    def advance(self, state: Any, word: str) -> tuple[float, NDArray[np.int64]]:
        """Natural-log P(word | state) and the state after it.

        Unknown words get <unk>'s; `</s>` ends a text.
        """
        after = np.empty_like(state)
        logp = mixture_kernels.advance_mixed(self.arrays, self.mixture, state, self.number(word), after)
        return logp * _LN_10, after

    def parts(self, text: str) -> NgramParts:
        """The unweighted components of a text's score."""
        words = text.split()
        numbers = np.array([self.number(word) for word in words], dtype=np.int64)
        room = np.empty((2, 2 * CONTEXT_SIZE), np.int64)
        logp = mixture_kernels.score_mixed(self.arrays, self.mixture, numbers, room[0], room[1]) * _LN_10
        return NgramParts(logp, len(words), sum(word not in self for word in words))

    def score(self, text: str) -> float:
        """Natural-log P(text, </s>)."""
        return self.parts(text).logp

    def perplexity(self, texts: Iterable[str]) -> float:
        """exp of the mean negative log-probability per token, each text's </s> being one. Needs a text."""
        return perplexity([self.parts(text) for text in texts])


AnyNgram = WordNgram | MixedNgram
