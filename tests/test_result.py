"""Lists of hypotheses as arrays and back."""

import numpy as np

from asr.decoding.result import Hypothesis, Scores, best_of, parts_of, totals_of


def test_parts_come_back_and_add_up_to_the_same_totals() -> None:
    rng = np.random.default_rng(0)
    hypotheses = [Hypothesis(str(i), Scores(*rng.normal(size=6).tolist())) for i in range(20)]
    parts_N6 = parts_of(hypotheses)
    assert totals_of(parts_N6).tolist() == [h.scores.total for h in hypotheses]
    found = best_of([h.text for h in hypotheses], parts_N6)
    assert found == sorted(hypotheses, key=lambda h: -h.scores.total)
    assert parts_of([]).shape == (0, 6)


def test_equal_totals_are_in_alphabetical_order() -> None:
    texts = ["b", "", "a b", "a"]
    assert [h.text for h in best_of(texts, np.zeros((4, 6)))] == sorted(texts)
    assert [h.text for h in best_of(texts, np.zeros((4, 6)), limit=2)] == ["", "a"]
