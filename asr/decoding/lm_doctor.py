"""What a bundle's language models make of a text of the caller's domain, and which terms need help.

Before a team sends audio, its own texts tell where the models will fail: words that the n-gram has never seen
(beam search pays a penalty for each), words that it finds very unlikely, and letters that cannot be written.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from asr.decoding.options import DecodingSettings
from asr.errors import TextError
from asr.text import normalise
from asr.tokenizer import Tokenizer

RARE_COST = 8.0  # nats: an n-gram that costs a word this much after weighting loses it to likelier ones
MAX_PHRASE_WORDS = 4  # flagged neighbours that are suggested as one hotword

Trouble = Literal["", "out_of_vocabulary", "rare", "unspellable"]


class WordLM(Protocol):
    """What is needed of the n-gram."""

    def __contains__(self, word: object) -> bool: ...
    def start_state(self) -> Any: ...
    def advance(self, state: Any, word: str) -> tuple[float, Any]: ...


class TextScorer(Protocol):
    """What is needed of GPT-2."""

    def score(self, texts: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True)
class Term:
    """One distinct word of the text."""

    word: str
    count: int
    pieces: tuple[str, ...]  # as the acoustic model writes it; empty where it cannot
    cost: float  # nats that the weighted n-gram takes from a hypothesis for it, mean of its occurrences
    trouble: Trouble  # why it needs a hotword, or a new vocabulary when it is unspellable


@dataclass(frozen=True)
class Diagnosis:
    """Of a text. Perplexities are per word, a sentence's end counting as one."""

    sentences: int
    words: int
    unknown_words: int  # occurrences outside the n-gram's vocabulary
    ngram_perplexity: float  # unknown words at the probability that the n-gram gives to any unknown word
    ngram_known_perplexity: float  # of the known words alone
    gpt2_perplexity: float
    terms: tuple[Term, ...]  # distinct words: the troubled ones first, the dearest before the cheaper
    hotwords: tuple[str, ...]  # suggested: troubled words, neighbours as one phrase, the most frequent first

    @property
    def unknown_share(self) -> float:
        """Of all occurrences, 0-1."""
        return self.unknown_words / max(1, self.words)


def diagnose(
    lines: Iterable[str], tokenizer: Tokenizer, lm: WordLM, gpt2: TextScorer, settings: DecodingSettings
) -> Diagnosis:
    """A text's lines, each one sentence, in any case and punctuation.

    Raises TextError when there are no words in it.
    """
    sentences = [words for words in (normalise(line).split() for line in lines) if words]
    if not sentences:
        raise TextError("the text has no words that could be spoken")
    logps = [_word_logps(words, lm) for words in sentences]
    costs: dict[str, list[float]] = {}
    known_logp = unknown_logp = 0.0
    n_unknown = 0
    for words, row in zip(sentences, logps, strict=True):
        for word, logp in zip([*words, "</s>"], row, strict=True):
            unknown = word != "</s>" and word not in lm
            n_unknown += unknown
            known_logp += 0.0 if unknown else logp
            unknown_logp += logp if unknown else 0.0
            if word != "</s>":
                penalty = settings.unknown_word_logp if unknown else 0.0
                costs.setdefault(word, []).append(-settings.alpha * logp - penalty)
    terms = [_term(word, of_word, tokenizer, lm) for word, of_word in costs.items()]
    n_words, n_sentences = sum(map(len, sentences)), len(sentences)
    gpt2_logp = sum(gpt2.score([" ".join(words) for words in sentences]))
    total = n_words + n_sentences
    return Diagnosis(
        sentences=n_sentences,
        words=n_words,
        unknown_words=n_unknown,
        ngram_perplexity=math.exp(-(known_logp + unknown_logp) / total),
        ngram_known_perplexity=math.exp(-known_logp / (total - n_unknown)),
        gpt2_perplexity=math.exp(-gpt2_logp / total),
        terms=tuple(sorted(terms, key=lambda t: (not t.trouble, -t.cost, t.word))),
        hotwords=_suggested(sentences, {t.word for t in terms if t.trouble in ("out_of_vocabulary", "rare")}),
    )


def _word_logps(words: Sequence[str], lm: WordLM) -> list[float]:
    """Natural-log probability of each word after those before it, and of the end."""
    state, logps = lm.start_state(), []
    for word in [*words, "</s>"]:
        logp, state = lm.advance(state, word)
        logps.append(logp)
    return logps


def _term(word: str, costs: Sequence[float], tokenizer: Tokenizer, lm: WordLM) -> Term:
    cost = sum(costs) / len(costs)
    trouble: Trouble = "" if cost < RARE_COST else "rare"
    if word not in lm:
        trouble = "out_of_vocabulary"
    try:
        pieces = tuple(tokenizer.pieces[i] for i in tokenizer.encode(word))
    except TextError:
        pieces, trouble = (), "unspellable"
    return Term(word, len(costs), pieces, round(cost, 3), trouble)


def _suggested(sentences: Iterable[Sequence[str]], troubled: set[str]) -> tuple[str, ...]:
    """Runs of troubled words, cut to `MAX_PHRASE_WORDS`, each once, the most frequent first."""
    runs: Counter[str] = Counter()
    for words in sentences:
        run: list[str] = []
        for word in [*words, ""]:
            if word in troubled and len(run) < MAX_PHRASE_WORDS:
                run.append(word)
                continue
            if run:
                runs[" ".join(run)] += 1
            run = [word] if word in troubled else []
    return tuple(phrase for phrase, _ in sorted(runs.items(), key=lambda item: (-item[1], item[0])))
