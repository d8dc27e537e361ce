"""What the decoders answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.options import DecoderName
from asr.decoding.posted_text import TextReceipt
from asr.decoding.receipts import HotwordReceipt

if TYPE_CHECKING:  # beam search, which a language has, answers with what is defined here
    from asr.decoding.languages import Language

# Whether GPT-2 re-ordered the list: not asked for, done, or out of time, when beam search's order stands.
RescoringState = Literal["none", "done", "out_of_time"]


class Scores(NamedTuple):
    """Weighted parts of a hypothesis' score, natural logarithms; they add up to `total`."""

    acoustic: float  # log-probability of the text given the audio, by its pieces
    ngram: float = 0.0  # alpha x n-gram log-probability, unknown-word penalties included
    hotwords: float = 0.0  # bonuses of the request's hotwords
    gpt2: float = 0.0  # gamma x GPT-2 log-probability
    length: float = 0.0  # beta x number of words
    pronunciation: float = 0.0  # log-probability of the text given the audio, by its words' phones

    @property
    def total(self) -> float:
        return self.acoustic + self.pronunciation + self.ngram + self.hotwords + self.gpt2 + self.length


ACOUSTIC, LENGTH, PRONUNCIATION = map(Scores._fields.index, ("acoustic", "length", "pronunciation"))


class Hypothesis(NamedTuple):
    """One candidate text."""

    text: str
    scores: Scores


def parts_of(hypotheses: Sequence[Hypothesis]) -> NDArray[np.float64]:
    """(N, 6): their scores, in the order of `Scores`' fields."""
    return np.array([hypothesis.scores for hypothesis in hypotheses]).reshape(-1, len(Scores._fields))


def totals_of(parts_N6: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): what `Scores.total` is of each, to the bit."""
    acoustic, ngram, hotwords, gpt2, length, pronunciation = parts_N6.T
    total_N: NDArray[np.float64] = acoustic + pronunciation + ngram + hotwords + gpt2 + length
    return total_N


@dataclass(frozen=True)
class NBest:
    """What a search found in one recording."""

    hypotheses: tuple[Hypothesis, ...]  # best first, at least one, and as many as the request has a use for
    rescoring: RescoringState = "none"
    timings_ms: dict[str, float] = field(default_factory=dict)  # of the steps so far
    searched: tuple[Hypothesis, ...] = ()  # in beam search's order, where GPT-2 has changed it
    # What beam search scored with; None: it did not run.
    language: "Language | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Compared:
    """What one of the decoders makes of a recording."""

    decoder: DecoderName
    text: str
    scores: Scores


@dataclass(frozen=True)
class Word:
    """A word of the chosen text, placed in the recording."""

    word: str
    start_s: float  # seconds from the start of the recording
    end_s: float
    confidence: float  # 0-1
    lm_only: bool = False  # the acoustic model clearly hears something else (`asr.decoding.evidence.lm_only`)


@dataclass(frozen=True)
class Transcript:
    """The answer of `Transcriber.transcribe`."""

    text: str
    decoder: DecoderName
    duration_s: float  # of the decoded audio
    words: tuple[Word, ...] = ()  # empty unless asked for
    calibrated: bool = False  # whether the words' confidence is a probability of being right
    rescoring: RescoringState = "none"
    hypotheses: tuple[Hypothesis, ...] = ()  # best first; `nbest` of them at the most
    compared: tuple[Compared, ...] = ()  # every decoder up to this one, where that was asked for
    hotword_receipts: tuple[HotwordReceipt, ...] = ()  # one per hotword of the request
    lm: str = ""  # name of the bundle's n-gram that beam search scored with; empty for greedy decoding
    lm_text: TextReceipt | None = None  # of the text that was mixed into it
    timings_ms: dict[str, float] = field(
        default_factory=dict
    )  # audio, features, acoustic, decoding, rescoring, alignment
