"""Signs that the recordings that come are other than those that a bundle was made for.

Shapes: N samples, T output frames, V CTC outputs (blank included).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asr.audio import SAMPLE_RATE, Samples
from asr.decoding.ngram import NgramParts
from asr.decoding.result import Transcript
from asr.levels import mean_power, peak
from asr.recording import Posteriors

_FULL_SCALE = 0.999
_BLOCK = SAMPLE_RATE // 100
_SILENT_POWER = 1e-6  # mean square of 10 ms: 60 dB below full scale


class TextLM(Protocol):
    """What is needed of the n-gram."""

    def parts(self, text: str) -> NgramParts: ...


@dataclass(frozen=True)
class Signs:
    """Of one recording's text. Shares are 0-1; None where there is nothing to take a share of."""

    blank: float | None  # of the output frames whose best label is the blank
    unknown_words: float | None  # of the words: outside the n-gram's vocabulary
    perplexity: float | None  # per word, the n-gram's, the end of the text counted as one
    confidence: float | None  # mean of the words'; None where they were not asked for


def signs_of(posteriors: Posteriors, transcript: Transcript, lm: TextLM, blank_id: int) -> Signs:
    """The signs of a recording, or of a passage of one."""
    log_probs_TV, words = posteriors.log_probs, transcript.words
    parts = lm.parts(transcript.text) if transcript.text else None
    return Signs(
        blank=float((log_probs_TV.argmax(axis=1) == blank_id).mean()) if len(log_probs_TV) else None,
        unknown_words=parts.n_unknown / parts.n_words if parts else None,
        perplexity=math.exp(min(-parts.logp / (parts.n_words + 1), 700.0)) if parts else None,
        confidence=sum(word.confidence for word in words) / len(words) if words else None,
    )


def clipped_share(samples: Samples) -> float:
    """Of samples (N,): at full scale, where a microphone or a converter gave up."""
    if not len(samples) or peak(samples) < _FULL_SCALE:
        return 0.0  # as a rule, and quicker
    return float((np.abs(samples) >= _FULL_SCALE).mean())


def silent_share(samples: Samples) -> float:
    """Of the whole 10 ms in samples (N,): without sound; 0 for less than that."""
    power = mean_power(samples, _BLOCK)
    return float((power < _SILENT_POWER).mean()) if len(power) else 0.0
