"""How well a language model expects a text: perplexity per word and the share of words it does not know."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TextFit:
    """Sums over a text; natural logarithms. Each sentence's end counts as one word, as KenLM counts it."""

    sentences: int
    words: int  # without the ends
    unknown_words: int = 0  # outside a word model's vocabulary
    logp: float = 0.0  # of all words, ends and unknown words included
    unknown_logp: float = 0.0  # the unknown words' part of it

    @property
    def perplexity(self) -> float:
        """Per word, unknown words at the probability the model gives to any unknown word."""
        return math.exp(-self.logp / max(1, self.words + self.sentences))

    @property
    def known_perplexity(self) -> float:
        """Per known word."""
        known = self.words + self.sentences - self.unknown_words
        return math.exp(-(self.logp - self.unknown_logp) / max(1, known))

    @property
    def unknown_share(self) -> float:
        """Unknown words of all words, 0-1."""
        return self.unknown_words / max(1, self.words)

    def as_json(self) -> dict[str, float]:
        """The figures a report keeps, rounded."""
        return {
            "sentences": self.sentences,
            "words": self.words,
            "perplexity": round(self.perplexity, 2),
            "known_perplexity": round(self.known_perplexity, 2),
            "unknown_share": round(self.unknown_share, 5),
        }
