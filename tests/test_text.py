"""Transcript normalisation."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.text import normalise, unspellable


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Don\u2019t SHOUT \u2013 CAF\u00c9!", "don't shout cafe"),
        ("  rock 'n' roll  ", "rock n roll"),
        ("the dogs' home", "the dogs home"),
        ("o'clock", "o'clock"),
        ("salt & pepper", "salt and pepper"),
        ("stra\u00dfe \u00e6on", "strasse aeon"),
        ("\u4f60\u597d ...", ""),
        ("", ""),
    ],
)
def test_normalise(raw: str, expected: str) -> None:
    assert normalise(raw) == expected


@given(st.text(max_size=80))
def test_normalise_gives_the_alphabet_and_is_idempotent(raw: str) -> None:
    text = normalise(raw)
    assert re.fullmatch(r"([a-z]+('+[a-z]+)*( [a-z]+('+[a-z]+)*)*)?", text)
    assert normalise(text) == text


def test_unspellable_names_what_would_be_lost() -> None:
    assert unspellable("in 1984 \u4f60, yes") == {"1", "9", "8", "4", "\u4f60"}
    assert unspellable("caf\u00e9, don\u2019t!") == set()
