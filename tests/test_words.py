"""The words of an answer: times inside the recording, confidence, the flag of words that only the LM has."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.alignment import place_words
from asr.decoding.calibration import Calibration, LogisticMap
from asr.decoding.evidence import FEATURES, LM_ONLY_GAP, acoustic_gaps, features
from asr.decoding.greedy import greedy
from asr.decoding.options import DecoderName
from asr.decoding.result import Hypothesis, Scores, Word
from asr.decoding.words import describe_words
from tests.reference_beam import ScriptedTokenizer, random_log_probs, spelled

TOKENIZER = ScriptedTokenizer("_an", "_a", "pp", "p", "le", "_pe", "ar")


class FlatLM:
    """Knows "an" and "apple", and gives each word the same probability."""

    def __contains__(self, word: object) -> bool:
        return word in ("an", "apple")

    def start_state(self) -> None:
        return None

    def advance(self, state: None, word: str) -> tuple[float, None]:
        return -2.0, None


def described(
    log_probs_TV: np.ndarray,
    *texts: str,
    duration_s: float = 1.0,
    calibration: Calibration | None = None,
    decoder: DecoderName = "beam_lm",
    tokenizer: ScriptedTokenizer = TOKENIZER,
) -> tuple[Word, ...]:
    return describe_words(
        log_probs_TV,
        [Hypothesis(text, Scores(-float(i))) for i, text in enumerate(texts)],
        decoder,
        tokenizer,  # type: ignore[arg-type]
        lm=FlatLM(),
        calibration=calibration,
        frame_s=0.04,
        duration_s=duration_s,
    )


def calibrated(start_shift_s: float = 0.0, end_shift_s: float = 0.0, **weights: float) -> Calibration:
    learned = LogisticMap(0.5, {name: weights.get(name, 0.0) for name in FEATURES})
    return Calibration("0" * 64, {"beam_lm": learned}, start_shift_s, end_shift_s)


def test_words_have_their_tokens_times_in_seconds() -> None:
    an, apple = described(spelled(TOKENIZER, [0, 1, 1, 0, 2, 2, 3, 5, 0, 0]), "an apple", duration_s=0.39)
    assert (an.word, an.start_s, an.end_s) == ("an", 0.04, 0.12)
    assert (apple.word, apple.start_s, apple.end_s) == ("apple", 0.16, 0.32)
    assert 0.0 < an.confidence == pytest.approx(apple.confidence)


def test_a_word_is_as_sure_as_its_least_sure_token() -> None:
    log_probs = spelled(TOKENIZER, [1, 0, 2, 3, 5])
    log_probs[3] = np.log(np.full(TOKENIZER.vocab_size, 0.5 / 7))
    log_probs[3, 3] = np.log(0.5)
    an, apple = described(log_probs, "an apple")
    assert apple.confidence < an.confidence / 2


def test_times_stay_inside_a_recording_shorter_than_its_frames() -> None:
    words = described(spelled(TOKENIZER, [0, 1, 0, 1]), "an an", duration_s=0.1)
    assert [(w.start_s, w.end_s) for w in words] == [(0.04, 0.08), (0.1, 0.1)]


def test_shifts_move_times_and_words_that_would_overlap_meet() -> None:
    log_probs = spelled(TOKENIZER, [0, 0, 1, 1, 1, 2, 2, 3, 5, 0, 0])
    an, apple = described(log_probs, "an apple", calibration=calibrated(-0.02, 0.04))
    assert (an.start_s, apple.end_s) == (0.06, 0.4)
    assert an.end_s == apple.start_s == 0.21  # half-way between 0.24 and 0.18


@given(
    seed=st.integers(0, 10**6),
    words=st.lists(st.sampled_from(["an", "apple", "pear", "app"]), max_size=6),
    n_frames=st.integers(0, 20),
    duration_s=st.floats(0.0, 1.0),
    shifts=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    fitted=st.booleans(),
)
def test_words_are_in_order_inside_the_recording(
    seed: int,
    words: list[str],
    n_frames: int,
    duration_s: float,
    shifts: tuple[float, float],
    fitted: bool,
) -> None:
    log_probs = random_log_probs(seed, n_frames, TOKENIZER.vocab_size, 3.0)
    calibration = calibrated(*shifts, gap=-1.0, sure_least=0.3) if fitted else None
    placed = described(log_probs, " ".join(words), duration_s=duration_s, calibration=calibration)
    assert [w.word for w in placed] == words
    times = [time for w in placed for time in (w.start_s, w.end_s)]
    assert times == sorted(times)
    assert all(0.0 <= time <= duration_s for time in times)
    assert all(0.0 <= w.confidence <= 1.0 for w in placed)


def test_confidence_is_the_maps_probability_of_the_evidence() -> None:
    log_probs = random_log_probs(4, 12, TOKENIZER.vocab_size, 3.0)
    calibration = calibrated(sure_least=0.7, rivals_agree=0.3, known=1.0)
    hypotheses = [Hypothesis("an pear", Scores(-1.0)), Hypothesis("an apple", Scores(-1.5))]
    placed = place_words(log_probs, "an pear", TOKENIZER)
    evidence = features(log_probs, placed, TOKENIZER, hypotheses=hypotheses, lm=FlatLM())
    expected = 1 / (1 + np.exp(-(0.5 + evidence @ list(calibration.maps["beam_lm"].weights.values()))))
    words = describe_words(
        log_probs,
        hypotheses,
        "beam_lm",
        TOKENIZER,
        lm=FlatLM(),
        calibration=calibration,
        frame_s=0.04,
        duration_s=1.0,
    )
    assert [w.confidence for w in words] == pytest.approx(expected.tolist())


def test_a_decoder_without_a_map_keeps_the_entropy_confidence() -> None:
    log_probs = random_log_probs(4, 12, TOKENIZER.vocab_size, 3.0)
    plain = described(log_probs, "an pear", decoder="greedy")
    assert described(log_probs, "an pear", decoder="greedy", calibration=calibrated(gap=-1.0)) == plain


def test_a_word_against_clear_acoustics_has_only_the_lm() -> None:
    #                                     an  .  pe  ar
    log_probs = spelled(TOKENIZER, [0, 1, 0, 6, 7, 0], certainty=0.99)
    heard, wanted = described(log_probs, "an pear"), described(log_probs, "an apple")
    assert [w.lm_only for w in heard] == [False, False]
    assert [w.lm_only for w in wanted] == [False, True]
    placed = place_words(log_probs, "an apple", TOKENIZER)
    gaps = acoustic_gaps(log_probs, placed, TOKENIZER.blank_id)
    path = np.zeros(6, dtype=int)
    for word in placed:
        for i, (start, end) in zip(word.ids, word.spans, strict=True):
            path[start:end] = i
    below = log_probs.max(axis=1) - log_probs[np.arange(6), path]
    by_hand = [below[int(w.start) : int(w.end)].sum() / len(w.ids) for w in placed]
    assert gaps == pytest.approx(by_hand)
    assert gaps[0] == 0.0
    assert gaps[1] >= LM_ONLY_GAP


def test_a_word_that_greedy_spelled_with_other_tokens_is_not_the_lms() -> None:
    # "app" is aligned as "_a pp"; the acoustics have it as "_a p p".
    log_probs = spelled(TOKENIZER, [2, 4, 0, 4, 0], certainty=0.999)
    (word,) = described(log_probs, "app")
    (gap,) = acoustic_gaps(log_probs, place_words(log_probs, "app", TOKENIZER), TOKENIZER.blank_id)
    assert gap >= LM_ONLY_GAP
    assert not word.lm_only


@given(st.integers(0, 10**6), st.integers(1, 15), st.floats(0.0, 8.0))
def test_what_greedy_writes_is_never_the_lms(seed: int, n_frames: int, scale: float) -> None:
    letters = ScriptedTokenizer("_a", "a", "_b", "b")
    log_probs = random_log_probs(seed, n_frames, letters.vocab_size, scale)
    text = greedy(log_probs, letters).text  # type: ignore[arg-type]
    assert not any(word.lm_only for word in described(log_probs, text, tokenizer=letters))
