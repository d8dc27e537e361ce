"""Entropy-based confidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.confidence import frame_confidence, token_confidence
from tests.reference_beam import random_log_probs


def test_certain_frames_have_one_and_flat_frames_zero() -> None:
    certain = np.log(np.array([[0.0, 1.0, 0.0]]) + 1e-300)
    flat = np.log(np.full((1, 3), 1 / 3))
    assert frame_confidence(np.vstack([certain, flat])) == pytest.approx([1.0, 0.0], abs=1e-12)


def test_value_worked_out_by_hand() -> None:
    probs = [0.9, 0.08, 0.02]
    entropy = (sum(p ** (1 / 3) for p in probs) - 1) * 1.5
    worst = (3 ** (2 / 3) - 1) * 1.5
    assert frame_confidence(np.log([probs])) == pytest.approx([1 - entropy / worst])


@given(st.integers(0, 10**6), st.integers(1, 50), st.floats(0, 50))
def test_confidence_lies_between_zero_and_one(seed: int, n_labels: int, scale: float) -> None:
    confidence = frame_confidence(random_log_probs(seed, 3, n_labels, scale))
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_impossible_labels_are_allowed() -> None:
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert frame_confidence(log_probs) == pytest.approx([1.0, 0.0])


def test_token_is_judged_at_its_peak() -> None:
    log_probs = np.log(np.array([[0.3, 0.6, 0.1], [0.02, 0.97, 0.01], [0.5, 0.4, 0.1]]))
    assert token_confidence(log_probs, [1], [(0, 3)]) == pytest.approx([frame_confidence(log_probs)[1]])


def test_token_that_the_acoustics_did_not_prefer_gets_its_share() -> None:
    log_probs = np.log(np.array([[0.98, 0.01, 0.01]]))
    (chosen,), (forced,) = (
        token_confidence(log_probs, [0], [(0, 1)]),
        token_confidence(log_probs, [2], [(0, 1)]),
    )
    assert forced == pytest.approx(chosen / 98)
    assert token_confidence(log_probs, [], []) == []
