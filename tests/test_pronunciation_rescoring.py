"""Beam search's texts with the score of their pronunciations mixed in."""

from typing import Any

import numpy as np
import pytest

from asr.acoustic.phones import split_rows
from asr.decoding.found import found_of
from asr.decoding.options import DecodingSettings
from asr.decoding.posteriors import divided_by_prior
from asr.decoding.pronunciation_rescoring import rescored_by_pronunciation
from asr.decoding.pronunciation_scores import pronunciation_logps
from asr.decoding.result import Hypothesis, Scores
from asr.recording import Posteriors
from tests.test_pronunciation_scores import Spoken, random_log_probs

TEXTS = ("a be", "see", "dodo a", "eye")
SETTINGS = DecodingSettings(pronunciation_weight=0.4)


class AnyWord(Spoken):
    def of(self, word: str) -> tuple[tuple[int, ...], ...]:
        return super().of("dodo" if word.startswith("dodo") else word)


def found() -> list[Hypothesis]:
    return [
        Hypothesis(text, Scores(-3.0 - place, ngram=-2.0, hotwords=1.0, length=0.5))
        for place, text in enumerate(TEXTS)
    ]


def rescored(
    hypotheses: list[Hypothesis], phones_TP: np.ndarray, *others: Any, limit: int | None = None
) -> list[Hypothesis]:
    return rescored_by_pronunciation(found_of(hypotheses), phones_TP, *others, limit=limit).hypotheses()


def test_both_readings_add_up_to_one_and_decide_the_order() -> None:
    phones_TP = random_log_probs(20, 8, seed=4, spread=3.0)
    logps = dict(zip(TEXTS, pronunciation_logps(phones_TP, TEXTS, Spoken()), strict=True))
    both = rescored(found(), phones_TP, Spoken(), SETTINGS)
    before = {h.text: h.scores for h in found()}
    for hypothesis in both:
        scores = hypothesis.scores
        assert scores.acoustic == pytest.approx(0.6 * before[hypothesis.text].acoustic)
        assert scores.pronunciation == pytest.approx(0.4 * logps[hypothesis.text])
        assert scores.total == pytest.approx(scores.acoustic + scores.pronunciation - 2.0 + 1.0 + 0.5)
    totals = [h.scores.total for h in both]
    assert totals == sorted(totals, reverse=True)
    assert [h.text for h in both] != list(TEXTS)  # which the audio does not bear out


def test_the_prior_of_phones_is_divided_by() -> None:
    phones_TP = random_log_probs(20, 8, seed=4)
    prior = tuple(np.exp(random_log_probs(1, 8, seed=8)[0]))
    settings = DecodingSettings(pronunciation_weight=0.4, phone_prior_weight=0.5, phone_prior=prior)
    divided_TP = divided_by_prior(phones_TP, np.array(prior), 0.5)
    assert rescored(found(), phones_TP, Spoken(), settings) == rescored(
        found(), divided_TP, Spoken(), SETTINGS
    )


def test_no_more_texts_are_scored_than_the_settings_say() -> None:
    settings = DecodingSettings(pronunciation_weight=0.4, pronunciation_nbest=2)
    phones_TP = random_log_probs(20, 8, seed=4)
    assert {h.text for h in rescored(found(), phones_TP, Spoken(), settings)} == {*TEXTS[:2]}


def test_a_limit_keeps_the_best_of_both_readings() -> None:
    phones_TP = random_log_probs(20, 8, seed=4, spread=3.0)
    every = rescored(found(), phones_TP, Spoken(), SETTINGS)
    assert rescored(found(), phones_TP, Spoken(), SETTINGS, limit=2) == every[:2]
    assert rescored(found(), phones_TP, Spoken(), DecodingSettings(), limit=2) == found()[:2]


def test_hopeless_texts_are_not_pronounced() -> None:
    phones_TP = random_log_probs(20, 8, seed=4)
    far = Hypothesis("dodo dodo", Scores(-35.0))
    texts = [h.text for h in rescored([*found(), far], phones_TP, Spoken(), SETTINGS)]
    assert sorted(texts) == sorted(TEXTS)


def test_of_texts_with_endless_words_only_the_best_is_pronounced() -> None:
    phones_TP = random_log_probs(20, 8, seed=4)
    longest = 50 * "do"
    noise = [Hypothesis(f"a {longest}{end}", Scores(-1.0 - place)) for place, end in enumerate(("a", "be"))]
    known = Hypothesis(f"see {longest}", Scores(-1.5))

    def texts(*hypotheses: Hypothesis) -> set[str]:
        return {h.text for h in rescored([*hypotheses], phones_TP, AnyWord(), SETTINGS)}

    assert texts(*noise, *found()) == {noise[0].text, *TEXTS}
    assert texts(found()[0], *noise, known) == {TEXTS[0], known.text}


def test_without_a_weight_nothing_changes() -> None:
    phones_TP = random_log_probs(20, 8, seed=4)
    assert rescored(found(), phones_TP, Spoken(), DecodingSettings()) == found()


def test_rows_come_apart_and_together() -> None:
    rng = np.random.default_rng(1)
    rows_TC = rng.normal(size=(5, 11 + 2 * 4)).astype(np.float32)
    posteriors = Posteriors.of_rows(rows_TC, 11, 1.0, {})
    pieces_TV, phones_TP = split_rows(rows_TC, 11)
    assert posteriors.phones is not None
    assert np.array_equal(posteriors.log_probs, pieces_TV)
    assert np.array_equal(posteriors.phones, phones_TP)
    assert np.array_equal(posteriors.phones[2], rows_TC[1, 11:15])  # two frames of phones to each of pieces
    assert np.array_equal(posteriors.rows, rows_TC)
    assert Posteriors.of_rows(rows_TC, 19, 1.0, {}).phones is None
