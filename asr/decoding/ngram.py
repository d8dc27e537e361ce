"""The word n-gram language model as a KenLM file and the list of its words.

New bundles hold arrays instead (`asr.decoding.array_ngram`); this stays for older ones, and as their measure.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kenlm

from asr.errors import MismatchError, MissingFileError

_LN_10 = math.log(10.0)  # KenLM's logarithms are decimal


@dataclass(frozen=True)
class NgramParts:
    """What a text's n-gram score is made of before any weight, so that tuning can re-weight n-best lists."""

    logp: float  # natural-log P(text, </s>), the model's own <unk> probability included
    n_words: int
    n_unknown: int  # words outside the vocabulary


class NgramLM:
    """A KenLM model with an explicit vocabulary. All probabilities out of here are natural logarithms.

    KenLM's binary files keep hashes of words, not words, so the vocabulary travels as a list beside the
    model.
    """

    def __init__(self, model: Any, unigrams: Iterable[str]) -> None:
        """`model` is a `kenlm.Model`.

        Raises MismatchError when the list is empty or has words that the model lacks.
        """
        self.model = model
        unigrams = frozenset(unigrams)
        self._list = WordList(unigrams, {w for w in unigrams if w in model} - {"<s>", "</s>"})
        self.words = self._list.words

    @classmethod
    def load(cls, path: Path, unigrams_path: Path) -> "NgramLM":
        """From a KenLM binary (or ARPA) file and a text file with one word a line.

        Raises MissingFileError when either is absent, MismatchError when they cannot be read or do not agree.
        """
        words = read_words(path, unigrams_path)
        config = kenlm.Config()
        config.show_progress = False  # both would write to stderr when the file is an ARPA
        config.arpa_complain = kenlm.ARPALoadComplain.NONE
        try:
            model = kenlm.Model(str(path), config)
        except (OSError, RuntimeError) as error:
            raise MismatchError(f"{path.name} cannot be read: {error}") from error
        return cls(model, words)

    @property
    def order(self) -> int:
        return int(self.model.order)

    def __contains__(self, word: object) -> bool:
        """Whether the word is in the vocabulary."""
        return word in self.words

    def has_prefix(self, prefix: str) -> bool:
        """Whether any word of the vocabulary starts with `prefix`."""
        return self._list.has_prefix(prefix)

    def start_state(self) -> Any:
        """KenLM's state after <s>."""
        state = kenlm.State()
        self.model.BeginSentenceWrite(state)
        return state

    def advance(self, state: Any, word: str) -> tuple[float, Any]:
        """Natural-log P(word | state) and the state after it.

        Unknown words get <unk>'s; `</s>` ends a text.
        """
        after = kenlm.State()
        return self.model.BaseScore(state, word, after) * _LN_10, after

    def parts(self, text: str) -> NgramParts:
        """The unweighted components of a text's score."""
        words = text.split()
        # Not model.score(): it adds up in 32-bit floats.
        decimal = sum(logp for logp, _, _ in self.model.full_scores(" ".join(words)))
        return NgramParts(decimal * _LN_10, len(words), sum(word not in self.words for word in words))

    def score(self, text: str) -> float:
        """Natural-log P(text, </s>)."""
        return self.parts(text).logp

    def perplexity(self, texts: Iterable[str]) -> float:
        """exp of the mean negative log-probability per token, each text's </s> being one. Needs a text."""
        return perplexity([self.parts(text) for text in texts])


def perplexity(parts: Sequence[NgramParts]) -> float:
    """Per token, each text's end being one. Raises ValueError without a text."""
    if not parts:
        raise ValueError("perplexity needs at least one text")
    return math.exp(-sum(p.logp for p in parts) / sum(p.n_words + 1 for p in parts))


class WordList:
    """The words that an n-gram knows."""

    def __init__(self, words: Iterable[str], held: Set[str]) -> None:
        """Raises MismatchError when there are none, or some that the model does not hold."""
        self.words = frozenset(words)
        self.in_order = sorted(self.words)
        if not self.words:
            raise MismatchError("the n-gram model's word list is empty")
        if strangers := sorted(self.words - held):
            raise MismatchError(
                f"the word list has {len(strangers)} words outside the n-gram model: {strangers[:5]}"
            )

    def has_prefix(self, prefix: str) -> bool:
        """Whether any word starts so."""
        place = bisect_left(self.in_order, prefix)
        return place < len(self.in_order) and self.in_order[place].startswith(prefix)


def read_words(path: Path, unigrams_path: Path) -> list[str]:
    """The known words of the n-gram at `path`, one a line of the other file.

    Raises MissingFileError when either is absent, MismatchError when the words cannot be read.
    """
    for needed in (path, unigrams_path):
        if not needed.is_file():
            raise MissingFileError(f"n-gram file {needed} is missing")
    try:
        return unigrams_path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise MismatchError(f"{unigrams_path.name} cannot be read: {error}") from error
