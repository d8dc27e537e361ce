"""Word times against boundaries that are known: see `training.joined` for the recordings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jiwer
import numpy as np

from asr.decoding.calibration import MOST_SHIFT_S, Calibration
from asr.decoding.options import DecoderName, DecodingOptions
from asr.decoding.result import Hypothesis, Scores
from asr.decoding.words import describe_words
from asr.recording import Posteriors
from asr.transcriber import Transcriber
from training.joined import Joined

REFERENCE = "reference text"
_STEP_S = 0.005
_MOST_STEPS = round(MOST_SHIFT_S / _STEP_S)
_FAR_S = 0.15
_LEAST_GAIN_S = 0.003


@dataclass(frozen=True)
class Edge:
    """A boundary of speech that a word lies at."""

    words: str  # whose: a decoder's, or those of REFERENCE
    kind: Literal["start", "end"]
    before_s: float  # the word's time without constants, minus the true one
    after_s: float  # the same with the calibration's constants


def edges(
    transcriber: Transcriber, item: tuple[Joined, Sequence[DecoderName], Calibration | None]
) -> list[Edge]:
    """Errors at the edges of a joined recording, for the reference's text and for each decoder's own.

    Of a decoder's text, only edges count whose word it has recognised: another word has other edges.
    """
    joined, decoders, calibration = item
    (posteriors,) = transcriber.listen_batch([transcriber.prepare_samples(joined.samples)])
    found: list[Edge] = []
    known: Sequence[Hypothesis] = (Hypothesis(joined.text, Scores(acoustic=0.0)),)
    found += _edges(transcriber, posteriors, joined, REFERENCE, known, calibration)
    for decoder in decoders:
        hypotheses = transcriber.decode(posteriors, DecodingOptions(decoder, nbest=1)).hypotheses
        found += _edges(transcriber, posteriors, joined, decoder, hypotheses, calibration)
    return found


def timing_figures(found: Sequence[Edge]) -> dict[str, dict[str, Any]]:
    """Median and 90th percentile of the distance, by whose words they are."""
    figures = {}
    for words in dict.fromkeys(edge.words for edge in found):
        chosen = [edge for edge in found if edge.words == words]
        before_ms = 1000 * np.abs([edge.before_s for edge in chosen])
        after_ms = 1000 * np.abs([edge.after_s for edge in chosen])
        figures[words] = {
            "boundaries": len(chosen),
            "before_ms": round(float(np.median(before_ms)), 1),
            "after_ms": round(float(np.median(after_ms)), 1),
            "after_90_ms": round(float(np.percentile(after_ms, 90)), 1),
        }
    return figures


def fitted_shifts(found: Sequence[Edge]) -> tuple[float, float]:
    """Seconds to add to beginnings and ends, from the reference text's edges; 0 where nothing is gained.

    Of shifts by whole 5 ms, the one with the least mean distance, distances above 0.15 s counting as 0.15 s:
    they are misalignments or noise taken for speech, which no constant mends. It must save 3 ms of it.
    """
    shifts_s = []
    candidates_s = np.arange(-_MOST_STEPS, _MOST_STEPS + 1) * _STEP_S
    for kind in ("start", "end"):
        errors_s = np.array([e.before_s for e in found if e.words == REFERENCE and e.kind == kind])
        if not len(errors_s):
            shifts_s.append(0.0)
            continue
        distance_s = np.minimum(np.abs(errors_s + candidates_s[:, None]), _FAR_S).mean(axis=1)
        best = int(distance_s.argmin())
        gained_s = float(distance_s[_MOST_STEPS] - distance_s[best])  # the middle candidate is 0
        shifts_s.append(round(float(candidates_s[best]), 3) if gained_s >= _LEAST_GAIN_S else 0.0)
    return shifts_s[0], shifts_s[1]


def _edges(
    transcriber: Transcriber,
    posteriors: Posteriors,
    joined: Joined,
    name: str,
    hypotheses: Sequence[Hypothesis],
    calibration: Calibration | None,
) -> list[Edge]:
    before, after = (
        describe_words(
            posteriors.log_probs,
            hypotheses,
            "greedy",
            transcriber.tokenizer,
            lm=transcriber.lm,
            calibration=shifts,
            frame_s=transcriber.frame_s,
            duration_s=posteriors.duration_s,
        )
        for shifts in (None, calibration)
    )
    places = _recognised(joined.text, hypotheses[0].text)
    found: list[Edge] = []
    first = 0
    for text, start_s, end_s in zip(joined.texts, joined.starts_s, joined.ends_s, strict=True):
        last = first + len(text.split()) - 1
        if first in places:
            k = places[first]
            found.append(Edge(name, "start", before[k].start_s - start_s, after[k].start_s - start_s))
        if last in places:
            k = places[last]
            found.append(Edge(name, "end", before[k].end_s - end_s, after[k].end_s - end_s))
        first = last + 1
    return found


def _recognised(reference: str, hypothesis: str) -> dict[int, int]:
    """Index of each reference word that is right -> its index in the hypothesis."""
    if not hypothesis.split():
        return {}
    chunks = jiwer.process_words(reference, hypothesis).alignments[0]
    return {
        chunk.ref_start_idx + n: chunk.hyp_start_idx + n
        for chunk in chunks
        if chunk.type == "equal"
        for n in range(chunk.ref_end_idx - chunk.ref_start_idx)
    }


def words_right(reference: str, hypothesis: str) -> list[bool]:
    """Whether each word of the hypothesis is right, in the alignment that WER is counted on."""
    right = set(_recognised(reference, hypothesis).values()) if reference.split() else set()
    return [k in right for k in range(len(hypothesis.split()))]
