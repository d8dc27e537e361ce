"""Forced alignment, against every path written down."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.alignment import forced_align, frames_needed, place_words
from asr.decoding.greedy import collapse
from tests.reference_beam import ScriptedTokenizer, random_log_probs, spelled

TOKENIZER = ScriptedTokenizer("_an", "_a", "pp", "p", "le", "_pe", "ar")


def best_path_score(log_probs_TV: np.ndarray, ids: list[int]) -> float:
    """Reference: the best of all paths that spell the ids."""
    n_frames, n_labels = log_probs_TV.shape
    return max(
        sum(log_probs_TV[t, label] for t, label in enumerate(path))
        for path in itertools.product(range(n_labels), repeat=n_frames)
        if collapse(path, 0) == ids
    )


def score_of_spans(log_probs_TV: np.ndarray, ids: list[int], spans: list[tuple[int, int]]) -> float:
    path = np.zeros(len(log_probs_TV), dtype=int)
    for i, (start, end) in zip(ids, spans, strict=True):
        path[start:end] = i
    assert collapse(path.tolist(), 0) == ids
    return float(log_probs_TV[np.arange(len(path)), path].sum())


@pytest.mark.parametrize("ids", [[], [1], [1, 2], [1, 1], [2, 1, 2], [2, 2, 1], [1, 1, 1]], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_alignment_is_the_best_of_all_paths(ids: list[int], seed: int) -> None:
    log_probs = random_log_probs(seed, 6, 3, 2.0)
    spans = forced_align(log_probs, ids)
    assert score_of_spans(log_probs, ids, spans) == pytest.approx(best_path_score(log_probs, ids))


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), max_size=8), st.integers(0, 5))
def test_spans_are_ordered_and_spell_the_ids(seed: int, ids: list[int], spare_frames: int) -> None:
    n_frames = frames_needed(ids) + spare_frames
    spans = forced_align(random_log_probs(seed, n_frames, 5, 4.0), ids)
    assert all(start < end for start, end in spans)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert all(0 <= edge <= n_frames for edge in edges)
    score_of_spans(np.zeros((n_frames, 5)), ids, spans)


def test_too_few_frames_are_refused() -> None:
    assert frames_needed([1, 1, 2]) == 4
    with pytest.raises(ValueError, match="3 tokens need 4 frames, there are 3"):
        forced_align(random_log_probs(0, 3, 3), [1, 1, 2])
    with pytest.raises(ValueError, match="blank"):
        forced_align(random_log_probs(0, 3, 3), [0])


def test_impossible_tokens_are_still_placed() -> None:
    log_probs = np.full((4, 3), -np.inf)
    log_probs[:, 0] = 0.0
    assert len(forced_align(log_probs, [1, 2])) == 2


def test_words_lie_where_their_tokens_are() -> None:
    #                             .  an      .  a     pp le .  .
    log_probs = spelled(TOKENIZER, [0, 1, 1, 0, 2, 2, 3, 5, 0, 0])
    an, apple = place_words(log_probs, "an apple", TOKENIZER)
    assert (an.word, an.start, an.end, an.ids, an.spans) == ("an", 1, 3, (1,), ((1, 3),))
    assert (apple.word, apple.start, apple.end, apple.ids) == ("apple", 4, 8, (2, 3, 5))
    assert apple.spans == ((4, 6), (6, 7), (7, 8))


def test_text_whose_own_tokens_do_not_fit_is_spread_over_the_speech() -> None:
    # Emitted as "_a pp le" in three frames; a tokenizer that spells "apple" with five pieces needs more.
    letters = ScriptedTokenizer("_a", "p", "l", "e", "_n")
    assert frames_needed(letters.encode("apple n")) == 7
    apple, n = place_words(spelled(letters, [0, 1, 4, 5, 0]), "apple n", letters)
    assert (apple.start, apple.end, apple.ids) == (pytest.approx(1), pytest.approx(1 + 3 * 5 / 6), ())
    assert (n.start, n.end) == (apple.end, pytest.approx(4))


def test_spreading_needs_no_speech_and_no_frames() -> None:
    letters = ScriptedTokenizer("_a", "b")
    silent = place_words(spelled(letters, [0, 0]), "ab ab", letters)
    assert [(w.start, w.end) for w in silent] == [(0.0, 1.0), (1.0, 2.0)]
    nothing = place_words(np.zeros((0, 3)), "ab", letters)
    assert [(w.start, w.end) for w in nothing] == [(0.0, 0.0)]


def test_no_words_are_placed_nowhere() -> None:
    assert place_words(random_log_probs(0, 4, TOKENIZER.vocab_size), " ", TOKENIZER) == []
