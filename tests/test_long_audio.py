"""Long recordings: cuts at pauses, overlapping stretches joined, passages merged; bounded memory."""

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE
from asr.decoding.options import DecodingOptions
from asr.decoding.result import Hypothesis, Scores, Transcript, Word
from asr.errors import DecodingTimeoutError
from asr.joining import Heard, Joiner, Passage, joined_at
from asr.long_audio import Part
from asr.merging import merged
from asr.room_change import best_split, change_in
from asr.transcriber import Transcriber
from asr.windows import LEVEL_S, Stretch, WindowSettings, cheapest_cuts, stretches
from tests.conftest import wav_bytes

FRAME = 1280
SMALL = WindowSettings(longest_s=4, shortest_s=1, pause_s=0.2, clear_pause_s=0.5, overlap_s=1)


def speech(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def silence(seconds: float, level: float = 1e-3) -> np.ndarray:
    return speech(seconds, seed=9, level=level)


def in_pieces(samples: np.ndarray, size: int = 1000) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def cut(samples: np.ndarray, window_settings: WindowSettings = SMALL) -> list[Stretch]:
    return list(stretches(in_pieces(samples), window_settings, FRAME))


def test_a_recording_that_fits_is_one_stretch_even_when_silent() -> None:
    for samples in (speech(4), np.zeros(16000, np.float32), np.zeros(1, np.float32)):
        (only,) = cut(samples)
        assert only.whole
        np.testing.assert_array_equal(only.samples, samples)


def test_cuts_lie_in_pauses() -> None:
    samples = np.concatenate([speech(2), silence(0.6), speech(2, 1), silence(0.6), speech(2, 2)])
    found = cut(samples)
    assert [s.overlap for s in found] == [0, 0, 0]
    assert [s.start / SAMPLE_RATE for s in found] == pytest.approx([0, 2.3, 4.9], abs=0.1)
    np.testing.assert_array_equal(np.concatenate([s.samples for s in found]), samples)


def test_the_end_of_a_recording_is_cut_at_pauses_too() -> None:
    """What is left when all is read was one stretch, whatever pauses were in it."""
    samples = np.concatenate([speech(3), silence(0.6), speech(1.2, 1), silence(0.6), speech(1.2, 2)])
    found = cut(samples)
    assert [s.start / SAMPLE_RATE for s in found] == pytest.approx([0, 3.3, 5.1], abs=0.1)


def test_quiet_at_the_end_is_no_stretch_of_its_own() -> None:
    """Noise alone would be scaled to the loudness of speech, and words found in it."""
    for quiet_s in (1.2, 1.9, 3.5):
        found = cut(np.concatenate([speech(2), silence(0.6), speech(2, 1), silence(quiet_s, 1e-4)]))
        assert [s.start / SAMPLE_RATE for s in found] == pytest.approx([0, 2.3], abs=0.1)
        assert found[-1].end / SAMPLE_RATE == pytest.approx(
            4.6 + (quiet_s if quiet_s <= 1.5 else 0.5), abs=0.05
        )


def test_short_pauses_end_stretches_where_there_are_no_others() -> None:
    """Speakers who follow each other at once belong to different stretches."""
    roomy = replace(SMALL, longest_s=9, usual_s=2)
    parts = [part for i in range(6) for part in (speech(2.5, i), silence(0.25))]
    found = cut(np.concatenate(parts), roomy)
    assert [s.start / SAMPLE_RATE for s in found] == pytest.approx(
        [i * 2.75 - 0.125 * (i > 0) for i in range(6)], abs=0.1
    )


def test_a_click_does_not_divide_a_pause() -> None:
    """Halves of 0.2 s would be no reason to cut, their 0.43 s together are."""
    roomy = replace(SMALL, longest_s=9, clear_pause_s=0.35)
    click = [silence(0.2), speech(0.03, 5), silence(0.2)]
    found = cut(np.concatenate([speech(3), *click, speech(3, 1), silence(0.2), speech(3.5, 2)]), roomy)
    assert [s.start / SAMPLE_RATE for s in found] == pytest.approx([0, 3.2], abs=0.05)


def test_pauses_of_a_speaker_whose_room_is_louder_than_the_others() -> None:
    """His floor lies above what is quiet in theirs: his pauses are quiet among the seconds around them."""
    near = [part for i in range(2) for part in (speech(2, i), silence(0.5, 1e-4))]
    noisy = [part for i in range(2) for part in (speech(2.5, i, 0.3), silence(0.5, 0.02))]
    found = cut(np.concatenate([*near, *noisy, *near]), replace(SMALL, longest_s=12, usual_s=3))
    assert [s.start / SAMPLE_RATE for s in found] == pytest.approx(
        [0, 2.25, 4.75, 7.75, 10.75, 13.25], abs=0.25
    )


def test_a_pause_is_cut_where_the_room_changes() -> None:
    samples = np.concatenate(
        [speech(2), silence(0.15, 1e-3), silence(0.45, 1e-2), speech(2, 1), silence(0.6)]
    )
    found = cut(np.concatenate([samples, speech(2, 2)]))
    assert found[1].start / SAMPLE_RATE == pytest.approx(2.15, abs=0.02)
    assert found[2].start / SAMPLE_RATE == pytest.approx(4.9, abs=0.05)  # the same room: in the middle


@settings(deadline=None)
@given(st.integers(9, 40), st.integers(0, 99))
def test_a_change_is_where_two_means_leave_least(n_frames: int, seed: int) -> None:
    frames_TF = np.random.default_rng(seed).standard_normal((n_frames, 3))
    found, share = best_split(frames_TF)
    left = {
        at: sum(((part - part.mean(axis=0)) ** 2).sum() for part in (frames_TF[:at], frames_TF[at:]))
        for at in range(4, n_frames - 3)
    }
    total = ((frames_TF - frames_TF.mean(axis=0)) ** 2).sum()
    assert left[found] == pytest.approx(min(left.values()))
    assert share == pytest.approx(1 - left[found] / total)


def test_nothing_changes_in_digital_silence() -> None:
    assert change_in(np.zeros(8000, np.float32)) is None
    assert change_in(np.zeros(300, np.float32)) is None


def test_a_longer_pause_nearby_is_the_better_cut() -> None:
    parts = [speech(1.2), silence(0.5), speech(0.5, 1), silence(0.8), speech(3, 2)]
    found = cut(np.concatenate(parts))
    assert [s.start / SAMPLE_RATE for s in found] == pytest.approx([0, 2.6], abs=0.1)


def cost_of(cuts: Sequence[int], lengths_s: dict[int, float]) -> float:
    """As `cheapest_cuts` has it: stretches beyond the usual length, less what pauses are worth."""
    total = 0.0
    for before, at in pairwise([0, *cuts]):
        length_s = (at - before) * LEVEL_S
        if at in lengths_s:
            total -= min((lengths_s[at] - SMALL.clear_pause_s) / 0.1, 3.0)
            total += np.inf if length_s < SMALL.shortest_s else 0.0
        total += (max(0.0, length_s - SMALL.usual_s) / (SMALL.usual_s / 2)) ** 2
    return total


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 3999), st.floats(0.1, 1.2), max_size=8))
def test_cuts_are_the_cheapest_of_all(lengths_s: dict[int, float]) -> None:
    found = cheapest_cuts(sorted(lengths_s.items()), 4000, SMALL)
    ways = (way for n in range(len(lengths_s) + 1) for way in combinations(sorted(lengths_s), n))
    assert cost_of(found, lengths_s) == pytest.approx(min(cost_of([*way, 4000], lengths_s) for way in ways))


def test_a_quiet_speaker_after_a_loud_one_is_kept() -> None:
    near, far = speech(3, level=0.3), speech(3, 1, level=0.003)
    found = cut(np.concatenate([near, silence(0.6, 1e-5), far]))
    assert sum(len(s.samples) for s in found) == len(near) + len(far) + round(0.6 * SAMPLE_RATE)


def test_without_pauses_stretches_overlap_by_whole_frames() -> None:
    found = cut(speech(11))
    assert [s.overlap > 0 for s in found] == [False, True, True, True]
    for before, after in pairwise(found):
        assert after.start % FRAME == 0
        assert before.end - after.start == after.overlap
        np.testing.assert_array_equal(before.samples[-after.overlap :], after.samples[: after.overlap])


def test_silence_is_not_read() -> None:
    hour = np.zeros(60 * SAMPLE_RATE, np.float32)
    found = cut(np.concatenate([speech(2), hour, speech(2, 1)]))
    assert sum(len(s.samples) for s in found) < 7 * SAMPLE_RATE
    assert found[-1].end == 64 * SAMPLE_RATE


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 3), st.sampled_from([0.0, 1e-3, 0.1, 0.5])), max_size=8),
    st.integers(0, 9),
)
def test_every_sample_that_can_be_heard_is_in_a_stretch(parts: list[tuple[float, float]], seed: int) -> None:
    samples = np.concatenate(
        [np.zeros(1, np.float32), *(speech(s, seed + i, level) for i, (s, level) in enumerate(parts))]
    )
    covered = np.zeros(len(samples), dtype=bool)
    end = 0
    for stretch in cut(samples):
        np.testing.assert_array_equal(stretch.samples, samples[stretch.start : stretch.end])
        assert len(stretch.samples) <= SMALL.longest_s * SAMPLE_RATE
        assert stretch.overlap == 0 or stretch.start == end - stretch.overlap
        covered[stretch.start : stretch.end] = True
        end = stretch.end
    assert not np.abs(samples[~covered]).max(initial=0) > 0.01


def test_no_more_is_read_than_the_next_stretch_needs() -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield speech(1, taken)

    for _, stretch in zip(range(20), stretches(endless(), SMALL, FRAME), strict=False):
        assert taken * SAMPLE_RATE <= stretch.start + (SMALL.longest_s + 2) * SAMPLE_RATE


def test_stretches_join_to_what_one_pass_gives() -> None:
    """Cut anywhere and joined again, the same posteriors are what they were."""
    rng = np.random.default_rng(1)
    log_probs = np.log(rng.dirichlet(np.full(5, 0.2), size=200).astype(np.float32) + 1e-9)
    bounds = [(0, 60), (45, 110), (90, 160), (145, 200)]
    heard = [Heard(log_probs[a:b], 10 * a, a > 0, b < 200) for a, b in bounds]
    (whole,) = joined(heard, longest=1000)
    np.testing.assert_array_equal(whole.log_probs_TV, log_probs)
    several = joined(heard, longest=90)
    assert len(several) > 1
    np.testing.assert_array_equal(np.concatenate([p.log_probs_TV for p in several]), log_probs)
    lengths = [10 * len(p.log_probs_TV) for p in several[:-1]]
    assert [p.start for p in several] == list(np.cumsum([0, *lengths]))


def joined(heard: list[Heard], longest: int) -> list[Passage]:
    joiner = Joiner(0, longest, frame_samples=10)
    return [passage for one in heard for passage in joiner.push(one)]


def test_the_cut_is_at_a_blank() -> None:
    """A label that the second pass puts a frame later is neither written twice nor lost."""
    first, second = (np.full((20, 3), -9.0, np.float32) for _ in range(2))
    first[:, 0] = second[:, 0] = -0.01
    for frame, (a, b) in {15: (1, 0), 16: (0, 1)}.items():
        first[frame, 1] = -0.01 if a else -9
        second[frame - 10, 1] = -0.01 if b else -9
    first[15, 0] = second[6, 0] = -9
    before, after = joined_at(first, second, 10, 0)
    joined = np.concatenate([first[:before], second[after:]])
    assert len(joined) == 30
    assert (joined.argmax(axis=1) == 1).sum() == 1


def transcript(text: str, *totals: float) -> Transcript:
    listed = tuple(Hypothesis(f"{text}{i}", Scores(t, ngram=-1.0)) for i, t in enumerate(totals))
    return Transcript(f"{text}0", "beam_lm", 1.0, (Word(f"{text}0", 0.1, 0.9, 0.5),), hypotheses=listed)


def test_merged_hypotheses_are_the_best_combinations() -> None:
    parts = [transcript("a", -1, -2), transcript("b", -1, -1.5, -9), transcript("c", 0)]
    whole = merged(parts, decoder="beam_lm", duration_s=3.4, nbest=3, calibrated=False)
    assert whole.text == "a0 b0 c0"
    assert [h.text for h in whole.hypotheses] == ["a0 b0 c0", "a0 b1 c0", "a1 b0 c0"]
    assert [h.scores.total for h in whole.hypotheses] == pytest.approx([-5, -5.5, -6])
    assert [w.word for w in whole.words] == ["a0", "b0", "c0"]
    nothing = merged([], decoder="greedy", duration_s=9.0, nbest=2, calibrated=True)
    assert (nothing.text, nothing.words, nothing.duration_s) == ("", (), 9.0)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-50, 0), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(1, 8)
)
def test_merging_equals_trying_every_combination(lists: list[list[float]], nbest: int) -> None:
    parts = [transcript(f"x{i}", *sorted(totals, reverse=True)) for i, totals in enumerate(lists)]
    whole = merged(parts, decoder="beam_lm", duration_s=9.0, nbest=nbest, calibrated=False)
    sums = [0.0]
    for totals in lists:
        sums = [a + b - 1.0 for a in sums for b in totals]
    expected = sorted(sums, reverse=True)[:nbest]
    assert [h.scores.total for h in whole.hypotheses] == pytest.approx(expected)


@pytest.fixture(scope="module")
def transcriber(tiny_bundle: Path) -> Transcriber:
    return Transcriber.load(tiny_bundle, device="cpu")


def tones(seconds: float, hz: float) -> np.ndarray:
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    gate = np.sin(2 * np.pi * 3 * time_s) > 0
    return (0.3 * np.sin(2 * np.pi * hz * time_s) * gate).astype(np.float32) + speech(seconds, level=0.01)


def test_a_long_recording_is_its_utterances(transcriber: Transcriber) -> None:
    """Cut at the pauses, each part is what its own recording gives, in its place."""
    options = DecodingOptions("beam_lm", nbest=2, word_timestamps=True)
    spoken = [tones(14, 300), tones(14, 500), tones(14, 900)]
    gap = silence(1.2, 1e-5)
    told: list[Part] = []
    content = wav_bytes(np.concatenate([part for one in spoken for part in (one, gap)]))
    found = transcriber.transcribe(content, options, on_part=told.append)
    assert len(told) == 3
    assert found.duration_s == pytest.approx(3 * 15.2)
    assert found.text == " ".join(part.transcript.text for part in told) == found.hypotheses[0].text
    assert [part.start_s for part in told] == pytest.approx([0, 14.9, 30], abs=0.6)
    assert len(found.hypotheses) == 2
    starts = [word.start_s for word in found.words]
    assert starts == sorted(starts)
    assert found.words[-1].end_s <= found.duration_s
    assert found == replace(transcriber.transcribe(content, options), timings_ms=found.timings_ms)


def test_a_short_recording_is_read_whole(transcriber: Transcriber) -> None:
    options = DecodingOptions("beam_lm_rescore", nbest=3, word_timestamps=True)
    content = wav_bytes(np.concatenate([tones(5, 300), silence(2), tones(5, 700)]))
    direct = transcriber.decode(transcriber.listen(content), options)
    assert replace(transcriber.transcribe(content, options), timings_ms={}) == replace(direct, timings_ms={})


def test_hours_of_silence_have_no_words_and_their_length(transcriber: Transcriber) -> None:
    content = wav_bytes(np.zeros(90 * SAMPLE_RATE, np.float32))
    found = transcriber.transcribe(content, DecodingOptions("beam_lm_rescore", nbest=1, word_timestamps=True))
    assert (found.text, found.words, found.duration_s) == ("", (), 90.0)
    assert found.hypotheses[0].text == ""


def test_work_on_a_long_recording_ends_when_nobody_wants_it(transcriber: Transcriber) -> None:
    def refuse(_: Part) -> None:
        raise KeyError("enough")

    content = wav_bytes(np.concatenate([tones(20, 300), silence(1, 1e-5), tones(20, 300)]))
    with pytest.raises(KeyError):
        transcriber.transcribe(content, DecodingOptions("greedy"), on_part=refuse)
    with pytest.raises(DecodingTimeoutError):
        transcriber.transcribe(content, DecodingOptions("greedy"), timeout_s=0)


def test_memory_does_not_grow_with_the_recording(transcriber: Transcriber) -> None:
    """Three minutes at 16 kHz are 12 MB of float32; never is so much held."""
    block = np.concatenate([tones(9, 300), silence(1, 1e-5)])
    content = wav_bytes(np.tile(block, 18))
    tracemalloc.start()
    transcriber.transcribe(content, DecodingOptions("greedy"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 9e6
