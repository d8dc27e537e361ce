"""Hotwords: what they earn, and what they change in beam search."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.hotwords import HotwordScorer
from asr.decoding.ngram import NgramLM
from asr.decoding.options import DecodingSettings
from asr.decoding.pyctcdecode_beam import PyctcdecodeDecoder
from asr.errors import OptionsError
from tests.reference_beam import MARK, ScriptedTokenizer, spelled
from tests.tiny_lm import make_lm

SETTINGS = DecodingSettings(alpha=0.6, beta=0.7, unknown_word_logp=-4.0)
FRUIT = ScriptedTokenizer("_pe", "ar", "_new", "_york", "_xylo")


@pytest.fixture
def lm(tmp_path: Path) -> NgramLM:
    return make_lm(tmp_path)


def spell(text: str, certainty: float) -> np.ndarray:
    return spelled(FRUIT, [label for i in FRUIT.encode(text) for label in (i, 0)], certainty)


def covered_words(text: str, hotwords: list[str]) -> int:
    """Reference: how many words lie inside a full occurrence of a hotword."""
    words = text.split()
    covered = set()
    for phrase, start in itertools.product((h.split() for h in hotwords), range(len(words))):
        if phrase and words[start : start + len(phrase)] == phrase:
            covered |= set(range(start, start + len(phrase)))
    return len(covered)


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join), max_size=6),
    st.lists(st.sampled_from("abcd"), max_size=15),
)
def test_bonus_counts_each_covered_word_once(hotwords: list[str], words: list[str]) -> None:
    text = " ".join(words)
    scorer = HotwordScorer(hotwords, 2.0, None, -8.0)
    scorer.finish()
    assert scorer.score(text) == pytest.approx(2.0 * covered_words(text, hotwords))
    for n in range(len(words)):  # in the order in which a search meets the texts
        scorer.score(" ".join(words[:n]))
    assert scorer.score(text) == pytest.approx(2.0 * covered_words(text, hotwords))


def test_unfinished_words_and_phrases_hold_a_provisional_bonus() -> None:
    scorer = HotwordScorer(["new york city", "newt", " "], 3.0, None, -8.0)
    assert "ne" in scorer
    assert "yo" in scorer
    assert "x" not in scorer
    assert scorer.score_partial_token("n") == pytest.approx(3.0 / 3)
    assert scorer.score_partial_token("newt") == pytest.approx(3.0)
    assert scorer.score_partial_token("yor") == 0.0
    assert scorer.score("a new") == pytest.approx(3.0)
    assert scorer.score("a new york") == pytest.approx(6.0)
    assert scorer.score("a new york pear") == 0.0
    assert scorer.score("a new york city") == pytest.approx(9.0)
    scorer.finish()
    assert scorer.score("a new york") == 0.0
    assert scorer.score("a new york city") == pytest.approx(9.0)


def test_overlong_hotwords_are_refused() -> None:
    for term in ("a" * 201, " ".join("a" * 17)):
        with pytest.raises(OptionsError, match="hotword"):
            HotwordScorer([term], 1.0, None, -8.0)


def test_hotword_wins_over_its_rival_and_reports_its_bonus(lm: NgramLM) -> None:
    log_probs = np.log(np.full((1, FRUIT.vocab_size), 0.001))
    log_probs[0, [FRUIT.pieces.index(f"{MARK}new"), FRUIT.pieces.index(f"{MARK}york")]] = np.log([0.8, 0.19])
    decoder = PyctcdecodeDecoder(FRUIT, lm, SETTINGS)
    assert decoder.decode(log_probs)[0].text == "new"
    best, second = decoder.decode(log_probs, hotwords=["york"], hotword_weight=4.0)[:2]
    assert (best.text, best.scores.hotwords) == ("york", pytest.approx(4.0))
    assert (second.text, second.scores.hotwords) == ("new", 0.0)
    assert decoder.decode(log_probs, hotwords=["york"], hotword_weight=0.0) == decoder.decode(log_probs)


def test_hotword_outside_the_vocabulary_gets_its_penalty_back(lm: NgramLM) -> None:
    log_probs = spelled(FRUIT, [FRUIT.pieces.index(f"{MARK}xylo")], certainty=0.6)
    decoder = PyctcdecodeDecoder(FRUIT, lm, SETTINGS)
    assert decoder.decode(log_probs)[0].text != "xylo"
    found = decoder.decode(log_probs, hotwords=["xylo"], hotword_weight=3.0)[0]
    assert found.text == "xylo"
    assert found.scores.hotwords == pytest.approx(3.0 - SETTINGS.unknown_word_logp)
    assert found.scores.ngram == pytest.approx(SETTINGS.alpha * lm.score("xylo") + SETTINGS.unknown_word_logp)


def test_phrases_earn_only_when_complete(lm: NgramLM) -> None:
    decoder = PyctcdecodeDecoder(FRUIT, lm, SETTINGS)
    whole = decoder.decode(spell("new york", 0.99), hotwords=["new york"], hotword_weight=2.0)[0]
    part = decoder.decode(spell("new pear", 0.99), hotwords=["new york"], hotword_weight=2.0)[0]
    assert (whole.text, whole.scores.hotwords) == ("new york", pytest.approx(4.0))
    assert (part.text, part.scores.hotwords) == ("new pear", 0.0)
