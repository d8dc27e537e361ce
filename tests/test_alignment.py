"""Forced alignment, against every path written down, and the words made of it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.alignment import align_words, forced_align, frames_needed
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
    an, apple = align_words(log_probs, "an apple", TOKENIZER, frame_s=0.04, duration_s=0.39)
    assert (an.word, an.start_s, an.end_s) == ("an", pytest.approx(0.04), pytest.approx(0.12))
    assert (apple.word, apple.start_s, apple.end_s) == ("apple", pytest.approx(0.16), pytest.approx(0.32))
    assert 0.0 < an.confidence == pytest.approx(apple.confidence)


def test_a_word_is_as_sure_as_its_least_sure_token() -> None:
    log_probs = spelled(TOKENIZER, [1, 0, 2, 3, 5])
    log_probs[3] = np.log(np.full(TOKENIZER.vocab_size, 0.5 / 7))
    log_probs[3, 3] = np.log(0.5)
    an, apple = align_words(log_probs, "an apple", TOKENIZER, frame_s=0.04, duration_s=0.2)
    assert apple.confidence < an.confidence / 2


def test_times_stay_inside_a_recording_shorter_than_its_frames() -> None:
    words = align_words(spelled(TOKENIZER, [0, 1, 0, 1]), "an an", TOKENIZER, frame_s=0.04, duration_s=0.1)
    assert [(w.start_s, w.end_s) for w in words] == [(0.04, 0.08), (0.1, 0.1)]


def test_text_whose_own_tokens_do_not_fit_is_spread_over_the_speech() -> None:
    # Emitted as "_a pp le" in three frames; a tokenizer that spells "apple" with five pieces needs more.
    letters = ScriptedTokenizer("_a", "p", "l", "e", "_n")
    log_probs = spelled(letters, [0, 1, 4, 5, 0])
    assert frames_needed(letters.encode("apple n")) == 7
    apple, n = align_words(log_probs, "apple n", letters, frame_s=0.1, duration_s=0.5)
    assert (apple.start_s, apple.end_s) == (pytest.approx(0.1), pytest.approx(0.1 + 0.3 * 5 / 6))
    assert (n.start_s, n.end_s) == (apple.end_s, pytest.approx(0.4))
    assert 0.0 < apple.confidence < 1.0


def test_spreading_needs_no_speech_and_no_frames() -> None:
    letters = ScriptedTokenizer("_a", "b")
    silent = align_words(spelled(letters, [0, 0]), "ab ab", letters, frame_s=0.1, duration_s=0.2)
    assert [(w.start_s, w.end_s) for w in silent] == [(0.0, pytest.approx(0.1)), (pytest.approx(0.1), 0.2)]
    nothing = align_words(np.zeros((0, 3)), "ab", letters, frame_s=0.1, duration_s=0.0)
    assert [(w.start_s, w.end_s, w.confidence) for w in nothing] == [(0.0, 0.0, 0.0)]


@given(
    seed=st.integers(0, 10**6),
    words=st.lists(st.sampled_from(["an", "apple", "pear", "app"]), max_size=6),
    n_frames=st.integers(0, 20),
    duration_s=st.floats(0.0, 1.0),
)
def test_words_are_in_order_inside_the_recording(
    seed: int, words: list[str], n_frames: int, duration_s: float
) -> None:
    log_probs = random_log_probs(seed, n_frames, TOKENIZER.vocab_size, 3.0)
    placed = align_words(log_probs, " ".join(words), TOKENIZER, frame_s=0.04, duration_s=duration_s)
    assert [w.word for w in placed] == words
    times = [time for w in placed for time in (w.start_s, w.end_s)]
    assert times == sorted(times)
    assert all(0.0 <= time <= duration_s for time in times)
    assert all(0.0 <= w.confidence <= 1.0 for w in placed)
