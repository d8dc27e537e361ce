"""Measures of confidence, by hand and at their ends."""

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.reliability import (
    calibration_error,
    normalised_cross_entropy,
    ranking,
    reliability_svg,
    summary,
)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in pairs], dtype=float), np.array([r for _, r in pairs], dtype=bool)


def test_calibration_error_by_hand() -> None:
    # Bin 0.9-1.0: mean 0.95, half right: 0.45 off, 2 words. Bin 0.2-0.3: mean 0.25, none right, 1 word.
    probability, right = arrays([(0.94, True), (0.96, False), (0.25, False)])
    assert calibration_error(probability, right) == pytest.approx((2 * 0.45 + 0.25) / 3)
    assert calibration_error(*arrays([(1.0, True), (0.0, False)])) == 0.0
    assert calibration_error(*arrays([])) == 0.0


def test_ranking_by_counting_pairs() -> None:
    rng = np.random.default_rng(0)
    probability, right = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in probability[right] for b in probability[~right]]
    assert ranking(probability, right) == pytest.approx(np.mean(pairs))
    assert ranking(*arrays([(0.3, True)])) == 0.5


def test_cross_entropy_is_nothing_for_the_prior_and_one_for_the_truth() -> None:
    right = np.array([True, True, True, False])
    assert normalised_cross_entropy(np.full(4, 0.75), right) == pytest.approx(0.0)
    assert normalised_cross_entropy(right.astype(float), right) == pytest.approx(1.0, abs=1e-4)
    assert normalised_cross_entropy(~right * 1.0, right) < -1.0
    assert normalised_cross_entropy(np.ones(2), np.ones(2, dtype=bool)) == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=50))
def test_measures_stay_in_their_ranges_and_the_diagram_is_xml(pairs: list[tuple[float, bool]]) -> None:
    figures = summary(*arrays(pairs))
    assert 0.0 <= figures["ece"] <= 1.0
    assert 0.0 <= figures["auc"] <= 1.0
    assert figures["nce"] <= 1.0
    assert sum(b["words"] for b in figures["bins"]) == figures["words"] == len(pairs)
    root = ElementTree.fromstring(reliability_svg("a < b & c", {"greedy": (figures, figures)}))
    assert len([e for e in root.iter() if e.tag.endswith("circle")]) == 2 * len(figures["bins"])
