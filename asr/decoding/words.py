"""The words of a chosen text as the answer shows them: times, confidence, and who supports them."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.decoding.alignment import PlacedWord, place_words
from asr.decoding.calibration import Calibration
from asr.decoding.confidence import frame_confidence, token_confidence
from asr.decoding.evidence import WordLogps, acoustic_gaps, features, greedy_agreement, lm_only
from asr.decoding.options import DecoderName
from asr.decoding.result import Hypothesis, Word
from asr.tokenizer import Tokenizer


def describe_words(
    log_probs_TV: NDArray[np.floating[Any]],
    hypotheses: Sequence[Hypothesis],
    decoder: DecoderName,
    tokenizer: Tokenizer,
    *,
    lm: WordLogps,
    calibration: Calibration | None,
    frame_s: float,
    duration_s: float,
    hotwords: Collection[str] = (),
) -> tuple[Word, ...]:
    """The words of the first hypothesis, placed on natural-log posteriors (T, V).

    Confidence is the calibrated probability of being right where the bundle has a map for the decoder, else
    the entropy confidence (0-1). Times lie in [0, duration_s], never decrease, and are whole milliseconds.
    Raises TextError when the text cannot be spelled, ValueError on a wrong shape or NaN.
    """
    placed = place_words(log_probs_TV, hypotheses[0].text, tokenizer)
    if not placed:
        return ()
    learned = None if calibration is None else calibration.maps.get(decoder)
    if learned is None or not len(log_probs_TV):
        confidences = entropy_confidences(log_probs_TV, placed)
    else:
        evidence_WF = features(
            log_probs_TV, placed, tokenizer, hypotheses=hypotheses, lm=lm, hotwords=hotwords
        )
        confidences = learned.probability(evidence_WF).tolist()
    shifts_s = (0.0, 0.0) if calibration is None else (calibration.start_shift_s, calibration.end_shift_s)
    times_s = _times(placed, frame_s, duration_s, *shifts_s)
    gaps = acoustic_gaps(log_probs_TV, placed, tokenizer.blank_id)
    agrees = greedy_agreement(log_probs_TV, placed, tokenizer)
    return tuple(
        Word(word.word, start_s, end_s, confidence, lm_only(gap, agreed))
        for word, (start_s, end_s), confidence, gap, agreed in zip(
            placed, times_s, confidences, gaps, agrees, strict=True
        )
    )


def entropy_confidences(log_probs_TV: NDArray[np.floating[Any]], placed: Sequence[PlacedWord]) -> list[float]:
    """Uncalibrated, 0-1: that of the word's least sure token, or its frames' mean where none is aligned."""
    confidences = []
    for word in placed:
        if word.ids:
            confidences.append(min(token_confidence(log_probs_TV, word.ids, word.spans)))
            continue
        first = min(int(word.start), len(log_probs_TV) - 1)
        inside = log_probs_TV[first : max(int(np.ceil(word.end)), first + 1)]
        confidences.append(float(frame_confidence(inside).mean()) if len(log_probs_TV) else 0.0)
    return confidences


def _times(
    placed: Sequence[PlacedWord], frame_s: float, duration_s: float, start_shift_s: float, end_shift_s: float
) -> list[tuple[float, float]]:
    """Seconds at which the words begin and end; where the shifts make two overlap, they meet half-way."""
    times_s = np.array([(w.start * frame_s + start_shift_s, w.end * frame_s + end_shift_s) for w in placed])
    times_s[:, 1] = times_s.max(axis=1)  # a word that the shifts would turn round
    overlaps = np.flatnonzero(times_s[:-1, 1] > times_s[1:, 0])
    times_s[overlaps, 1] = times_s[overlaps + 1, 0] = (times_s[overlaps, 1] + times_s[overlaps + 1, 0]) / 2
    edges_s = np.maximum.accumulate(np.clip(times_s.round(3), 0.0, duration_s).ravel())
    pairs: list[tuple[float, float]] = [(float(a), float(b)) for a, b in edges_s.reshape(-1, 2)]
    return pairs
