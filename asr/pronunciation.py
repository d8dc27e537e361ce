"""Words as the label sequences of an acoustic model's phone layer.

A bundle has two files for it: `lexicon.txt`, a word a line with its pronunciations, tabs between them
("read<TAB>R EH D<TAB>R IY D"), sorted by word; and `g2p.json`, which guesses the others from their letters
(asr/graphones.py). `asr-train lexicon` writes both.

The layer's outputs: 0 is the CTC blank, 1..P are the phones inside a word in sorted order, P+1..2P are the
same phones as the first of a word. So a sequence of words needs no label between them.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.errors import MismatchError
from asr.graphones import GraphoneModel

CACHED = 65536  # words whose pronunciations are kept
_AT_ONCE = 16384  # words of the lexicon that are split at once


class LexiconLabels(NamedTuple):
    """A lexicon as arrays: R pronunciations of W words, L labels."""

    words: Sequence[str]  # (W,)
    labels: NDArray[np.int32]  # (L,) of all pronunciations
    first: NDArray[np.int64]  # (R + 1,) where each pronunciation's begin
    word: NDArray[np.int64]  # (R,) ascending


class Pronunciations:
    """Label sequences of words. Thread-safe; the same word always gives the same ones.

    lexicon: word -> its pronunciations as in lexicon.txt, tabs between them.
    """

    def __init__(self, lexicon: Mapping[str, str], g2p: GraphoneModel) -> None:
        """Raises MismatchError for a lexicon with phones that the g2p has not, or with an empty entry."""
        self.phones: tuple[str, ...] = g2p.phones
        self.n_outputs = 2 * len(self.phones) + 1
        self._lexicon, self._g2p = lexicon, g2p
        self._inside = {phone: number for number, phone in enumerate(self.phones, start=1)}
        foreign = set(" ".join(lexicon.values()).split()) - set(self.phones)
        if foreign:
            raise MismatchError(f"the lexicon has phones that the g2p has not: {', '.join(sorted(foreign))}")
        if empty := next((word for word, spoken in lexicon.items() if not spoken), None):
            raise MismatchError(f"the lexicon has no pronunciation for {empty!r}")
        self.of = lru_cache(maxsize=CACHED)(self._of)

    @classmethod
    def load(cls, path_of_lexicon: Path, path_of_g2p: Path) -> "Pronunciations":
        """Raises MismatchError for files that are no lexicon and g2p, OSError when one cannot be read."""
        lines = path_of_lexicon.read_text(encoding="utf-8").splitlines()
        try:
            lexicon = dict(line.split("\t", 1) for line in lines)
        except ValueError as error:
            raise MismatchError(f"{path_of_lexicon.name}: a line without a tab") from error
        return cls(lexicon, GraphoneModel.load(path_of_g2p))

    def __contains__(self, word: str) -> bool:
        """Whether the lexicon has the word; else its pronunciation is guessed."""
        return word in self._lexicon

    def of_lexicon(self) -> "LexiconLabels":
        """The whole lexicon's label sequences."""
        words = list(self._lexicon)
        inside = {**self._inside, "\t": -1, "\n": -2}
        labels: list[NDArray[np.int16]] = []
        for first in range(0, len(words), _AT_ONCE):
            spoken = "\n".join([self._lexicon[word] for word in words[first : first + _AT_ONCE]]) + "\n"
            tokens = spoken.replace("\t", " \t ").replace("\n", " \n ").split(" ")
            labels.append(np.array([inside[token] for token in tokens if token], np.int16))
        flat = np.concatenate(labels) if labels else np.zeros(0, np.int16)
        marks = np.flatnonzero(flat < 0)
        begin = np.concatenate([[0], marks + 1])
        flat[begin[:-1]] += len(self.phones)
        word = np.cumsum(flat[marks] == -2)
        return LexiconLabels(
            words,
            flat[flat > 0].astype(np.int32),
            begin - np.arange(len(begin)),
            np.concatenate([[0], word[:-1]]) if len(word) else word,
        )

    def spoken(self, word: str) -> tuple[tuple[str, ...], ...]:
        """One or more pronunciations, each of at least one phone: the lexicon's, or the g2p's guess."""
        known = self._lexicon.get(word)
        if known is None:
            return (self._g2p.spoken(word),)
        return tuple(tuple(one.split()) for one in known.split("\t"))

    def _of(self, word: str) -> tuple[tuple[int, ...], ...]:
        """The same as outputs of the phone layer: the first of each is a word-initial one, no blanks."""
        first = len(self.phones)
        return tuple(
            (first + self._inside[one[0]], *(self._inside[phone] for phone in one[1:]))
            for one in self.spoken(word)
        )
