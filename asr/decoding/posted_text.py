"""A text posted with a request: its own n-gram, mixed into the bundle's; and what that did."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.mixed_ngram import MixedNgram
from asr.decoding.text_ngram import sentences_of, text_table
from asr.errors import OptionsError

MAX_WORD_LETTERS = 45  # longer ones are no words, and the vocabulary's table is as wide as the longest
HELD_OUT_EVERY = 10  # of the different sentences, one in so many is held out to measure on
FEWEST_TO_HOLD_OUT = 20  # different sentences; fewer say nothing
MAX_NEW_WORDS = 100  # that are named


@dataclass(frozen=True)
class Fit:
    """Of some texts, under the bundle's n-gram alone and with the posted text mixed in. They add up.

    A word outside the vocabulary has the probability that the model gives to any unknown word.
    """

    tokens: int = 0  # words, and the end of each text
    alone_logp: float = 0.0  # natural logarithm, of all of them
    mixed_logp: float = 0.0

    @property
    def perplexity_alone(self) -> float | None:
        """Per token; None without any."""
        return _perplexity(self.alone_logp, self.tokens)

    @property
    def perplexity_mixed(self) -> float | None:
        return _perplexity(self.mixed_logp, self.tokens)

    def plus(self, other: "Fit") -> "Fit":
        return Fit(
            self.tokens + other.tokens,
            self.alone_logp + other.alone_logp,
            self.mixed_logp + other.mixed_logp,
        )


@dataclass(frozen=True)
class TextReceipt:
    """What became of a posted text."""

    weight: float  # of its n-gram in the mixture, 0-1
    sentences: int
    words: int
    n_new_words: int  # different ones that the bundle's n-gram does not know: they can be written now
    new_words: tuple[str, ...]  # of them the most frequent, at most MAX_NEW_WORDS
    held_out: Fit  # every tenth sentence, under a mixture with the others; empty for fewer than twenty
    written: Fit = field(default_factory=Fit)  # the words that were written


def mixed_in(lm: ArrayNgram, text: str, weight: float) -> tuple[MixedNgram, TextReceipt]:
    """The n-gram with a text's own mixed into it. Raises OptionsError when there are no words in the text."""
    sentences = _bounded(text)
    if not sentences:
        raise OptionsError("lm_text has no words that could be spoken")
    mixed = MixedNgram(lm, ArrayNgram.of(text_table(sentences)), weight)
    counts = Counter(word for words in sentences for word in words)
    frequent = sorted(mixed.new_words, key=lambda word: (-counts[word], word))
    receipt = TextReceipt(
        weight=weight,
        sentences=len(sentences),
        words=counts.total(),
        n_new_words=len(frequent),
        new_words=tuple(frequent[:MAX_NEW_WORDS]),
        held_out=_held_out(lm, sentences, weight),
    )
    return mixed, receipt


def fit_of(lm: MixedNgram, texts: Sequence[str]) -> Fit:
    """How well both expect texts; empty ones are left out."""
    texts = [text for text in texts if text]
    alone, mixed = ([model.parts(text) for text in texts] for model in (lm.first, lm))
    return Fit(
        sum(parts.n_words + 1 for parts in mixed),
        sum(parts.logp for parts in alone),
        sum(parts.logp for parts in mixed),
    )


def _bounded(text: str) -> list[list[str]]:
    """The text's sentences, cut where something too long for a word stands."""
    found: list[list[str]] = []
    for words in sentences_of(text):
        part: list[str] = []
        for word in words:
            if len(word) <= MAX_WORD_LETTERS:
                part.append(word)
                continue
            found.append(part)
            part = []
        found.append(part)
    return [words for words in found if words]


def _held_out(lm: ArrayNgram, sentences: Sequence[Sequence[str]], weight: float) -> Fit:
    different = list(dict.fromkeys(map(tuple, sentences)))
    if len(different) < FEWEST_TO_HOLD_OUT:
        return Fit()
    kept = [words for i, words in enumerate(different) if i % HELD_OUT_EVERY]
    mixed = MixedNgram(lm, ArrayNgram.of(text_table(kept)), weight)
    return fit_of(mixed, [" ".join(words) for words in different[::HELD_OUT_EVERY]])


def _perplexity(logp: float, tokens: int) -> float | None:
    return math.exp(min(-logp / tokens, 700.0)) if tokens else None
