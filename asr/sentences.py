"""Whether a sentence goes on over a cut of a long recording, and the stretch that it then makes.

Stretches end at pauses, and speakers pause inside sentences, too. Cut there, both parts lack what the other
one tells: the language models the words before, the acoustic model half of the speaker's mean spectrum. So
once both are decoded, the language models are asked whether their texts are likelier as one sentence than as
two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.decoding.mixed_ngram import AnyNgram
from asr.windows import Stretch

_NATS_PER_S = 5.0  # of a pause: what one sentence must be likelier by


@dataclass(frozen=True)
class Weights:
    """Of the language models in a text's score."""

    ngram: float
    gpt2: float  # 0: it is not asked


def goes_on(
    before: str,
    after: str,
    pause_s: float,
    lm: AnyNgram,
    score: Callable[[Sequence[str]], list[float]],
    weights: Weights,
) -> bool:
    """Whether two texts with such a pause between them are one sentence. score: GPT-2's, of each text.

    A text without words is no sentence.
    """
    if not before or not after:
        return False
    texts = (f"{before} {after}", before, after)
    gain = weights.ngram * _gain([lm.score(text) for text in texts])
    if weights.gpt2:
        gain += weights.gpt2 * _gain(score(texts))
    return gain > _NATS_PER_S * pause_s


def _gain(logps: Sequence[float]) -> float:
    """Of one text over two: their log-probabilities, the whole's first."""
    whole, before, after = logps
    return whole - before - after


def fit_together(before: Stretch, after: Stretch, longest_s: float) -> bool:
    """Whether both, and nothing else, lie between their ends, and they are not too long as one stretch.

    Overlapping stretches are joined already (`asr.joining`).
    """
    lone = not (before.overlap or before.continues or after.overlap or after.continues)
    return lone and before.end == after.start and after.end - before.start <= longest_s * SAMPLE_RATE


def as_one(before: Stretch, after: Stretch) -> Stretch:
    """Both as one stretch."""
    samples = np.concatenate([before.samples, after.samples])
    return Stretch(samples, before.start, pause_s=after.pause_s)
