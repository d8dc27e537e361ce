"""The numbers that calibration reads: finite whatever comes, and meaning what their names say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.alignment import place_words
from asr.decoding.evidence import FEATURES, features, greedy_agreement, rival_agreement
from asr.decoding.result import Hypothesis, Scores
from tests.reference_beam import random_log_probs, spelled
from tests.test_words import TOKENIZER, FlatLM


def evidence(log_probs_TV: np.ndarray, *texts: str, hotwords: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    placed = place_words(log_probs_TV, texts[0], TOKENIZER)
    hypotheses = [Hypothesis(text, Scores(-float(i))) for i, text in enumerate(texts)]
    found = features(log_probs_TV, placed, TOKENIZER, hypotheses=hypotheses, lm=FlatLM(), hotwords=hotwords)
    assert found.shape == (len(placed), len(FEATURES))
    return dict(zip(FEATURES, found.T, strict=True))


@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from(["an", "apple", "pear", "app"]), max_size=5),
    st.integers(0, 15),
    st.floats(0.0, 50.0),
    st.booleans(),
)
def test_evidence_is_finite(seed: int, words: list[str], n_frames: int, scale: float, holes: bool) -> None:
    log_probs = random_log_probs(seed, n_frames, TOKENIZER.vocab_size, scale)
    if holes:  # labels that cannot be, as a masked model gives
        log_probs[:, 2:] = -np.inf
    found = evidence(log_probs, " ".join(words), "an", "")
    assert all(np.isfinite(column).all() for column in found.values())


def test_clear_speech_has_better_evidence_than_mumbling_in_every_acoustic_number() -> None:
    frames = [0, 1, 0, 2, 3, 5, 0]
    clear = evidence(spelled(TOKENIZER, frames, 0.98), "an apple")
    mumbled = evidence(spelled(TOKENIZER, frames, 0.3), "an apple")
    for name in ("sure_least", "sure_mean", "recording_sure"):
        assert (clear[name] > mumbled[name]).all()
    assert clear["gap"] == pytest.approx(0.0)
    assert (clear["greedy_agrees"] == 1.0).all()


def test_letters_tokens_and_the_ngram() -> None:
    found = evidence(spelled(TOKENIZER, [0, 1, 0, 6, 7, 0]), "an pear")
    assert np.exp(found["letters"]) == pytest.approx([2, 4])
    assert np.exp(found["tokens"]) == pytest.approx([1, 2])
    assert found["known"].tolist() == [1.0, 0.0]
    assert found["ngram"].tolist() == [-2.0, -2.0]
    assert evidence(spelled(TOKENIZER, [0, 1, 0, 6, 7, 0]), "an pear", hotwords=("a pear",))[
        "known"
    ].tolist() == [1.0, 1.0]


def test_greedy_agrees_where_it_writes_the_word_in_the_same_place() -> None:
    log_probs = spelled(TOKENIZER, [1, 0, 0, 6, 7, 0])
    placed = place_words(log_probs, "an pear", TOKENIZER)
    assert greedy_agreement(log_probs, placed, TOKENIZER) == [True, True]  # type: ignore[arg-type]
    elsewhere = place_words(spelled(TOKENIZER, [6, 7, 0, 0, 1, 0]), "pear an", TOKENIZER)
    assert greedy_agreement(log_probs, elsewhere, TOKENIZER) == [False, False]  # type: ignore[arg-type]


def test_rivals_count_by_their_scores() -> None:
    totals = (-1.0, -2.0, -9.0)
    texts = ("the cat sat", "the cat ran", "a dog")
    hypotheses = [Hypothesis(t, Scores(s)) for t, s in zip(texts, totals, strict=True)]
    mass = np.exp(0.3 * np.array(totals))
    mass /= mass.sum()
    the, cat, sat = rival_agreement(["the", "cat", "sat"], hypotheses)
    assert (the, cat) == (pytest.approx(mass[:2].sum()), pytest.approx(mass[:2].sum()))
    assert sat == pytest.approx(mass[0])
    assert rival_agreement(["sat", "cat"], hypotheses) == [0.0, 0.0]  # there, but with other neighbours
    assert rival_agreement(["a", "b"], []) == [1.0, 1.0]
