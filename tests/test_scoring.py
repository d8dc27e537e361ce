"""WER and CER with intervals."""

import random

import pytest

from asr.scoring import char_error_rate, word_error_rate, word_errors


def test_counts_by_kind() -> None:
    rate = word_error_rate(["the cat sat on the mat"], ["cat sit on the mat today"])
    assert (rate.substitutions, rate.deletions, rate.insertions, rate.units) == (1, 1, 1, 6)
    assert rate.rate == 0.5


def test_spaces_count_as_characters() -> None:
    assert char_error_rate(["ab c"], ["abc"]).rate == 0.25


@pytest.mark.parametrize(
    ("reference", "hypothesis", "rate"), [("", "", 0.0), ("a b", "", 1.0), ("a", "a b c", 2.0)]
)
def test_empty_texts(reference: str, hypothesis: str, rate: float) -> None:
    assert word_error_rate([reference], [hypothesis]).rate == rate


def test_insertions_against_nothing_are_infinite() -> None:
    assert word_error_rate([""], ["words"]).rate == float("inf")


def test_distance_equals_the_textbook_recurrence() -> None:
    rng = random.Random(0)
    for _ in range(200):
        a = [rng.choice("abc") for _ in range(rng.randrange(8))]
        b = [rng.choice("abc") for _ in range(rng.randrange(8))]
        assert word_errors(" ".join(a), " ".join(b)) == _levenshtein(a, b)


def _levenshtein(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def test_interval_holds_the_rate_and_shrinks_with_more_data() -> None:
    rng = random.Random(1)

    def interval(n: int) -> tuple[float, float, float]:
        references = ["a b c d"] * n
        hypotheses = [rng.choice(["a b c d", "a b c", "a x c y"]) for _ in range(n)]
        rate = word_error_rate(references, hypotheses)
        return rate.low, rate.rate, rate.high

    low, rate, high = interval(40)
    assert low < rate < high
    narrow_low, narrow_rate, narrow_high = interval(4000)
    assert narrow_low < narrow_rate < narrow_high
    assert narrow_high - narrow_low < (high - low) / 5


def test_different_numbers_of_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 references but 1"):
        word_error_rate(["a", "b"], ["a"])
