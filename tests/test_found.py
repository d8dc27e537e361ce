"""What searches find, as arrays: lists of hypotheses and back, each text once, the best first."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from asr.decoding.found import Found, found_of, ranked
from asr.decoding.result import Hypothesis, Scores, totals_of
from asr.decoding.text_arrays import joined, lines_of, picked, strings_of, texts_of

STRINGS = st.lists(st.text("ab \u00e9\U0001f600", max_size=4), max_size=12)


def test_parts_come_back_and_add_up_to_the_same_totals() -> None:
    rng = np.random.default_rng(0)
    hypotheses = [Hypothesis(str(i), Scores(*rng.normal(size=6).tolist())) for i in range(20)]
    found = found_of(hypotheses)
    assert found.hypotheses() == hypotheses
    assert totals_of(found.parts_X6).tolist() == [h.scores.total for h in hypotheses]
    assert ranked(found).hypotheses() == sorted(hypotheses, key=lambda h: -h.scores.total)
    assert found_of([]).parts_X6.shape == (0, 6)
    assert ranked(found_of([])).hypotheses() == []


@settings(deadline=None)  # the first call compiles
@given(STRINGS.map(lambda strings: list(dict.fromkeys(strings))), st.integers(1, 12), st.integers(1, 3))
def test_equal_totals_are_in_alphabetical_order(strings: list[str], limit: int, n_totals: int) -> None:
    parts_X6 = np.zeros((len(strings), 6))
    parts_X6[:, 0] = np.arange(len(strings)) % n_totals
    best = sorted(zip(-parts_X6[:, 0], strings, strict=True))
    found = ranked(Found(texts_of(strings), parts_X6), limit)
    assert strings_of(found.texts) == [string for _, string in best][:limit]


@settings(deadline=None)
@given(STRINGS, STRINGS)
def test_joined_texts_are_there_once_in_the_order_in_which_they_came(a: list[str], b: list[str]) -> None:
    assert strings_of(joined(texts_of(a), texts_of(b))) == list(dict.fromkeys([*a, *b]))


@settings(deadline=None)
@given(STRINGS)
def test_strings_come_back_whole_picked_and_as_lines(strings: list[str]) -> None:
    texts = texts_of(strings)
    assert strings_of(texts) == strings
    places = np.arange(len(strings))[::-2]
    assert strings_of(picked(texts, places)) == strings[::-2]
    written = texts_of(["".join(f"{string}\n" for string in strings)]).points
    assert strings_of(lines_of(written, len(strings))) == strings
