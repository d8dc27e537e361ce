"""The word n-gram in arrays: what native beam search scores with, and everything else that asks an n-gram.

It answers as `asr.decoding.ngram.NgramLM` does, whose KenLM files older bundles hold.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding import ngram_kernels
from asr.decoding.arpa import BEGIN, END, NgramTable
from asr.decoding.ngram import NgramLM, NgramParts, WordList, perplexity, read_words
from asr.decoding.ngram_file import NgramArrays, decoded, encoded, in_memory, mapped

_LN_10 = math.log(10.0)  # the file's logarithms are decimal


class ArrayNgram:
    """An n-gram model with an explicit vocabulary. All probabilities out of here are natural logarithms."""

    def __init__(self, vocabulary: Sequence[str], arrays: NgramArrays, words: Iterable[str] | None) -> None:
        """vocabulary: the model's words by number. words: those that count as known; None: all of them.

        Raises MismatchError when there are none, or some that the model lacks.
        """
        self.arrays = arrays
        self.numbers = {word: i for i, word in enumerate(vocabulary)}
        marks = {vocabulary[i] for i in (arrays.begin, arrays.end, arrays.unknown)}
        known = self.numbers.keys() - marks if words is None else words
        self._list = WordList(known, self.numbers.keys() - marks)
        self.words = self._list.words

    @classmethod
    def load(cls, path: Path, unigrams_path: Path) -> "ArrayNgram":
        """From a file of `encoded` arrays, mapped into memory, and one with a known word a line.

        Raises MissingFileError when either is absent, MismatchError when they cannot be read or do not agree.
        """
        known = read_words(path, unigrams_path)
        vocabulary, arrays = decoded(mapped(path), path.name)
        return cls(vocabulary, arrays, known)

    @classmethod
    def of(cls, table: NgramTable, words: Iterable[str] | None = None) -> "ArrayNgram":
        """A table's model, unquantised, without a file."""
        return cls(*decoded(in_memory(encoded(table)), "table"), words)

    @property
    def order(self) -> int:
        return self.arrays.order

    def __contains__(self, word: object) -> bool:
        """Whether the word is in the vocabulary."""
        return word in self.words

    def has_prefix(self, prefix: str) -> bool:
        """Whether any word of the vocabulary starts with `prefix`."""
        return self._list.has_prefix(prefix)

    @property
    def sorted_words(self) -> Sequence[str]:
        return self._list.in_order

    def unigrams(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """log10 P of words, by number, by themselves."""
        logps = np.empty(len(numbers))
        ngram_kernels.unigrams(self.arrays, numbers, logps)
        return logps

    def number(self, word: str) -> int:
        """The model's number of a word; unknown words have <unk>'s, and the marks their own."""
        if word in self.words or word in (BEGIN, END):
            return self.numbers[word]
        return self.arrays.unknown

    def start_state(self) -> NDArray[np.int64]:
        """The context after <s>."""
        context = np.empty(ngram_kernels.CONTEXT_SIZE, np.int64)
        ngram_kernels.begin_context(self.arrays, context)
        return context

    def advance(self, state: Any, word: str) -> tuple[float, NDArray[np.int64]]:
        """Natural-log P(word | state) and the state after it.

        Unknown words get <unk>'s; `</s>` ends a text.
        """
        after = np.empty_like(state)
        return ngram_kernels.advance(self.arrays, state, self.number(word), after) * _LN_10, after

    def parts(self, text: str) -> NgramParts:
        """The unweighted components of a text's score."""
        words = text.split()
        numbers = np.array([self.number(word) for word in words], dtype=np.int64)
        room = np.empty((2, ngram_kernels.CONTEXT_SIZE), np.int64)
        logp = ngram_kernels.score_words(self.arrays, numbers, room[0], room[1]) * _LN_10
        return NgramParts(logp, len(words), sum(word not in self.words for word in words))

    def score(self, text: str) -> float:
        """Natural-log P(text, </s>)."""
        return self.parts(text).logp

    def perplexity(self, texts: Iterable[str]) -> float:
        """exp of the mean negative log-probability per token, each text's </s> being one. Needs a text."""
        return perplexity([self.parts(text) for text in texts])


WordNgram = NgramLM | ArrayNgram


def load_ngram(arrays: Path, binary: Path, unigrams: Path) -> WordNgram:
    """The n-gram in arrays where that file is there, else KenLM's.

    Raises MissingFileError and MismatchError as their `load` do.
    """
    return ArrayNgram.load(arrays, unigrams) if arrays.is_file() else NgramLM.load(binary, unigrams)
