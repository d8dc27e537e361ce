"""Transcripts of a recording's passages as one transcript."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace

from asr import stopwatch
from asr.decoding.options import DecoderName
from asr.decoding.posted_text import TextReceipt
from asr.decoding.receipts import added_up
from asr.decoding.result import Compared, Hypothesis, RescoringState, Scores, Transcript, Word


def merged(
    parts: Sequence[Transcript],
    *,
    decoder: DecoderName,
    duration_s: float,
    nbest: int,
    calibrated: bool,
) -> Transcript:
    """One transcript of passages', in order, whose words have their places already; there may be none.

    Each part needs one hypothesis at least. A hypothesis of the whole is one of every passage; its scores are
    their sums, so the parts still add up to the total, and the `nbest` best of all combinations are kept.
    """
    hypotheses = [Hypothesis("", Scores(acoustic=0.0))]
    words: list[Word] = []
    for part in parts:
        hypotheses = _combined(hypotheses, part.hypotheses, max(nbest, 1))
        words += part.words
    states: set[RescoringState] = {part.rescoring for part in parts}
    rescoring: RescoringState = "done" if decoder == "beam_lm_rescore" else "none"
    return Transcript(
        text=hypotheses[0].text,
        decoder=decoder,
        duration_s=duration_s,
        words=tuple(words),
        calibrated=calibrated,
        rescoring="out_of_time" if "out_of_time" in states else rescoring,
        hypotheses=tuple(hypotheses[:nbest]),
        compared=_compared([part.compared for part in parts]),
        hotword_receipts=added_up([part.hotword_receipts for part in parts]),
        lm=parts[0].lm if parts else "",
        lm_text=_text_receipt([part.lm_text for part in parts]),
        timings_ms=stopwatch.added_up(part.timings_ms for part in parts),
    )


def shifted(words: Iterable[Word], start_s: float, end_s: float) -> list[Word]:
    """Words of a passage that begins at `start_s`, in the recording's time; none lies after `end_s`."""
    return [
        replace(
            word,
            start_s=min(round(word.start_s + start_s, 3), end_s),
            end_s=min(round(word.end_s + start_s, 3), end_s),
        )
        for word in words
    ]


def _text_receipt(parts: Sequence[TextReceipt | None]) -> TextReceipt | None:
    """Of all parts, which had the same text."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    written = found[0].written
    for part in found[1:]:
        written = written.plus(part.written)
    return replace(found[0], written=written)


def _compared(parts: Sequence[Sequence[Compared]]) -> tuple[Compared, ...]:
    """Each decoder's texts one after the other, scores added up. A part may have fewer decoders."""
    whole = [Hypothesis("", Scores(acoustic=0.0)) for _ in min(parts, key=len, default=())]
    for part in parts:
        whole = [_pair(a, Hypothesis(b.text, b.scores)) for a, b in zip(whole, part, strict=False)]
    decoders = [one.decoder for one in parts[0]] if parts else []
    return tuple(Compared(d, h.text, h.scores) for d, h in zip(decoders, whole, strict=False))


def _combined(before: Sequence[Hypothesis], after: Sequence[Hypothesis], limit: int) -> list[Hypothesis]:
    """The best pairs, best first; equal totals in alphabetical order. Both lists are best first."""
    after = after[:limit]
    # The pair (i, j) has (i + 1)(j + 1) - 1 better ones: no more are looked at than can be among the best.
    pairs = (_pair(a, b) for i, a in enumerate(before) for b in after[: limit // (i + 1)])
    return heapq.nsmallest(limit, pairs, key=lambda h: (-h.scores.total, h.text))


def _pair(a: Hypothesis, b: Hypothesis) -> Hypothesis:
    sums = (x + y for x, y in zip(a.scores, b.scores, strict=True))
    return Hypothesis(f"{a.text} {b.text}".strip(), Scores(*sums))
