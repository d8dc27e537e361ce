"""Greedy CTC decoding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.greedy import collapse, greedy
from tests.reference_beam import ScriptedTokenizer, all_paths, random_log_probs, spelled

TOKENIZER = ScriptedTokenizer("_a", "_b", "c", "d")


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        ([], []),
        ([0, 0], []),
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([0, 1, 1, 0, 0, 2, 3, 3, 0], [1, 2, 3]),
    ],
)
def test_repeats_and_blanks_are_removed(labels: list[int], ids: list[int]) -> None:
    assert collapse(labels, 0) == ids


@given(st.lists(st.integers(1, 4)), st.integers(0, 2))
def test_collapse_undoes_repeating_and_blanks(ids: list[int], repeats: int) -> None:
    assert collapse([label for i in ids for label in [i] * (repeats + 1) + [0]], 0) == ids


def test_text_and_acoustic_score_of_the_best_path() -> None:
    found = greedy(spelled(TOKENIZER, [1, 1, 3, 0, 2, 0, 2], certainty=0.9), TOKENIZER)
    assert found.text == "ac b b"
    assert found.scores.acoustic == pytest.approx(7 * np.log(0.9))
    assert found.scores.total == found.scores.acoustic


def test_best_path_is_at_most_the_sum_over_all_paths() -> None:
    log_probs = random_log_probs(0, 5, TOKENIZER.vocab_size)
    found = greedy(log_probs, TOKENIZER)
    assert found.scores.acoustic <= all_paths(log_probs, TOKENIZER)[found.text]


def test_no_frames_and_only_blanks_give_an_empty_text() -> None:
    nothing = greedy(np.zeros((0, TOKENIZER.vocab_size), dtype=np.float32), TOKENIZER)
    assert (nothing.text, nothing.scores.total) == ("", 0.0)
    assert greedy(spelled(TOKENIZER, [0] * 4), TOKENIZER).text == ""


@pytest.mark.parametrize(
    "broken",
    [
        np.zeros((3, 4)),
        np.zeros(5),
        np.full((2, 5), np.nan),
        np.full((2, 5), -np.inf),
    ],
    ids=["outputs of another tokenizer", "one dimension", "NaN", "no label possible"],
)
def test_posteriors_without_a_best_path_are_refused(broken: np.ndarray) -> None:
    with pytest.raises(ValueError, match="log-probabilities"):
        greedy(broken, TOKENIZER)
