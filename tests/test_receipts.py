"""Receipts: what became of each hotword, and that they add up to the hotwords' part of the score."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.hotwords import HotwordScorer
from asr.decoding.options import DECODERS, DecoderName, DecodingOptions
from asr.decoding.receipts import HotwordReceipt, added_up, judged, unused, with_effect
from asr.transcriber import Transcriber
from tests.reference_beam import ScriptedTokenizer

LETTERS = ScriptedTokenizer(*(f"_{c}" for c in "abcdefghijklmnopqrstuvwxyz"), *"abcdefghijklmnopqrstuvwxyz'")


@pytest.mark.parametrize(
    ("term", "phrase", "reason"),
    [
        ("Zürich", "zurich", None),
        ("O'Neill!", "o'neill", None),
        ("...", "", "empty"),
        ("covid19", "covid", "characters"),
        ("Москва", "", "characters"),
        ("a " * 17, " ".join("a" * 17), "too_long"),
        ("x" * 201, "x" * 201, "too_long"),
        ("New  York", "new york", "duplicate"),
    ],
)
def test_a_term_is_taken_or_refused_with_a_reason(term: str, phrase: str, reason: str | None) -> None:
    receipts = judged(["new york", term], LETTERS)
    assert receipts[0] == HotwordReceipt("new york", "new york", accepted=True)
    assert (receipts[1].term, receipts[1].phrase, receipts[1].reason) == (term, phrase, reason)
    assert receipts[1].accepted == (reason is None)
    assert [r.reason for r in unused(receipts)] == ["not_used", reason or "not_used"]


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join), max_size=6),
    st.lists(st.sampled_from("abcd"), max_size=15),
)
def test_scores_add_up_to_what_the_search_gives(terms: list[str], words: list[str]) -> None:
    class Known:
        def __contains__(self, word: object) -> bool:
            return word != "c"

    lm, text = Known(), " ".join(words)
    scorer = HotwordScorer(terms, 2.0, lm, -8.0)  # type: ignore[arg-type]
    scorer.finish()
    done = with_effect(judged(terms, LETTERS), text, 2.0, lm, -8.0)
    assert sum(r.score for r in done) == pytest.approx(scorer.score(text))
    assert all((r.fired > 0) == (f" {r.phrase} " in f" {text} ") for r in done if r.accepted)


def test_parts_of_a_recording_add_up() -> None:
    once = HotwordReceipt("a", "a", accepted=True, fired=1, score=2.0)
    assert added_up([(once,), (once,)]) == (HotwordReceipt("a", "a", accepted=True, fired=2, score=4.0),)
    assert added_up([]) == ()


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_answer_carries_receipts(tiny_bundle: Path, recording: bytes, decoder: DecoderName) -> None:
    transcriber = Transcriber.load(tiny_bundle, device="cpu")
    options = DecodingOptions(decoder, nbest=1, hotwords=("the", "zebra", "x2"), hotword_weight=3.0)
    transcript = transcriber.transcribe(recording, options)
    first, second, third = transcript.hotword_receipts
    assert (first.accepted, second.accepted) == (decoder != "greedy", decoder != "greedy")
    assert third.reason == "characters"
    added = sum(r.score for r in transcript.hotword_receipts)
    assert added == pytest.approx(transcript.hypotheses[0].scores.hotwords, abs=1e-4)
