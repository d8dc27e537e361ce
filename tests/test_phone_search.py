"""Beam search over phones: equal to the sum over all paths written down, and cases with names."""

import itertools
import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asr.decoding import phone_state
from asr.decoding.arpa import read_model
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.mixed_ngram import MixedNgram
from asr.decoding.options import DecodingSettings
from asr.decoding.phone_search import Lexicon, PhoneBeamDecoder
from asr.decoding.posteriors import divided_by_prior, keep_best_tokens
from asr.decoding.text_ngram import text_table
from asr.errors import DecodingTimeoutError
from asr.pronunciation import Pronunciations
from tests.reference_beam import SlowMixture, random_log_probs
from tests.tiny_lm import random_arpa

# Outputs: 0 blank, 1 A and 2 B inside a word, 3 A and 4 B at its beginning.
SPOKEN = {
    "a": "A",
    "aa": "A A",
    "ab": "A B",
    "abb": "A B B",
    "ba": "B A\tB\tB A B",
    "be": "B",
    "bee": "B",
    "eh": "A\tA A",
    "never": "A B A",
}
SETTINGS = DecodingSettings(alpha=0.6, beta=0.7, phone_beam_width=20000, beam_prune_logp=-600.0)
UNPRUNED = replace(SETTINGS, token_min_logp=-1e9)


def pronouncing(spoken: dict[str, str] = SPOKEN) -> Pronunciations:
    guess: Any = SimpleNamespace(phones=("A", "B"))
    return Pronunciations(spoken, guess)


PRONUNCIATIONS = pronouncing()
LEXICON = Lexicon(PRONUNCIATIONS)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> ArrayNgram:
    """A trigram model of the lexicon's words but one, and of one more."""
    words = [*(word for word in SPOKEN if word != "never"), "other"]
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    return ArrayNgram.of(read_model(random_arpa(path, np.random.default_rng(0), words, 3, share=0.5)))


def label_sequences(log_probs_TP: np.ndarray) -> dict[tuple[int, ...], float]:
    """Every sequence of labels -> log of the summed probability of its paths."""
    ways: dict[tuple[tuple[int, ...], int], float] = {((), 0): 1.0}
    for frame_P in np.exp(log_probs_TP).tolist():
        longer: dict[tuple[tuple[int, ...], int], float] = defaultdict(float)
        for (labels, last), p in ways.items():
            for label, q in enumerate(frame_P):
                longer[labels if label in (0, last) else (*labels, label), label] += p * q
        ways = longer
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    for (labels, _), p in ways.items():
        sums[labels] += p
    return {labels: math.log(p) for labels, p in sums.items() if p > 0.0}


def readings(labels: tuple[int, ...], pronunciations: Pronunciations, words: list[str]) -> list[str]:
    """The texts that are pronounced so."""
    starts = [place for place, label in enumerate(labels) if label > 2]
    if labels and starts[:1] != [0]:
        return []
    spoken = [labels[a:b] for a, b in itertools.pairwise([*starts, len(labels)])]
    choices = [[word for word in words if one in pronunciations.of(word)] for one in spoken]
    return [" ".join(choice) for choice in itertools.product(*choices)]


def written_down(
    log_probs_TP: np.ndarray,
    lm: ArrayNgram | MixedNgram | SlowMixture | None,
    settings: DecodingSettings,
    pronunciations: Pronunciations = PRONUNCIATIONS,
    words: tuple[str, ...] = tuple(SPOKEN),
) -> dict[str, tuple[float, float]]:
    """Every text that is possible -> its acoustics and its total."""
    known = [word for word in words if lm is None or word in lm]
    sums: dict[str, float] = defaultdict(lambda: -math.inf)
    for labels, logp in label_sequences(log_probs_TP).items():
        for text in readings(labels, pronunciations, known):
            sums[text] = float(np.logaddexp(sums[text], logp))
    found = {}
    for text, acoustic in sums.items():
        total = acoustic + settings.beta * len(text.split())
        if lm is not None:
            state: Any = lm.start_state()
            for word in [*text.split(), "</s>"]:
                logp, state = lm.advance(state, word)
                total += settings.alpha * logp
        found[text] = acoustic, total
    return found


def assert_equal(
    decoder: PhoneBeamDecoder, log_probs_TP: np.ndarray, expected: dict[str, tuple[float, float]]
) -> None:
    found = decoder.decode(log_probs_TP, limit=10**6)
    assert {h.text for h in found} == expected.keys()
    assert len(found) == len(expected)
    for h in found:
        assert (h.scores.acoustic, h.scores.total) == pytest.approx(expected[h.text], abs=1e-4)
        assert h.scores.total == pytest.approx(h.scores.acoustic + h.scores.ngram + h.scores.length, abs=1e-9)
    totals = [(-h.scores.total, h.text) for h in found]
    assert totals == sorted(totals)


@pytest.mark.parametrize("with_lm", [False, True])
def test_equals_the_sum_over_all_paths(with_lm: bool, lm: ArrayNgram) -> None:
    rng = np.random.default_rng(with_lm)
    model = lm if with_lm else None
    for _ in range(4):
        settings = replace(UNPRUNED, alpha=rng.uniform(-0.5, 2), beta=rng.uniform(-2, 2))
        decoder = PhoneBeamDecoder(LEXICON, model, settings)
        for _ in range(10):
            log_probs = random_log_probs(
                int(rng.integers(2**31)), int(rng.integers(0, 6)), 5, rng.uniform(0, 4)
            )
            assert_equal(decoder, log_probs, written_down(log_probs, model, settings))


def test_answers_of_the_ngram_may_be_forgotten(lm: ArrayNgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone_state, "_ANSWERS", 2)
    decoder = PhoneBeamDecoder(LEXICON, lm, UNPRUNED)
    for seed in range(6):
        log_probs = random_log_probs(seed, 5, 5)
        assert_equal(decoder, log_probs, written_down(log_probs, lm, UNPRUNED))


def test_labels_below_the_least_are_not_tried(lm: ArrayNgram) -> None:
    settings = replace(SETTINGS, token_min_logp=-2.0)
    decoder = PhoneBeamDecoder(LEXICON, lm, settings)
    for seed in range(10):
        log_probs = random_log_probs(seed, 5, 5, 2.0)
        kept = keep_best_tokens(log_probs, -2.0, 5)
        assert_equal(decoder, log_probs, written_down(kept, lm, settings))


def test_the_prior_of_phones_is_divided_by(lm: ArrayNgram) -> None:
    prior = (0.4, 0.1, 0.2, 0.1, 0.2)
    decoder = PhoneBeamDecoder(LEXICON, lm, replace(UNPRUNED, phone_prior_weight=0.5, phone_prior=prior))
    log_probs = random_log_probs(3, 5, 5)
    assert_equal(
        decoder, log_probs, written_down(divided_by_prior(log_probs, np.array(prior), 0.5), lm, UNPRUNED)
    )


def test_the_n_gram_may_weigh_otherwise_here(lm: ArrayNgram) -> None:
    decoder = PhoneBeamDecoder(LEXICON, lm, replace(UNPRUNED, phone_alpha=1.3))
    log_probs = random_log_probs(3, 5, 5)
    assert_equal(decoder, log_probs, written_down(log_probs, lm, replace(UNPRUNED, alpha=1.3)))


def test_a_posted_texts_n_gram_is_asked_too(lm: ArrayNgram) -> None:
    """Words that only the posted text has are found when the lexicon has them."""
    second = ArrayNgram.of(text_table([["never", "a", "be"], ["be", "never"]]))
    mixed = MixedNgram(lm, second, 0.3)
    decoder = PhoneBeamDecoder(LEXICON, mixed, UNPRUNED)
    for seed in range(5):
        log_probs = random_log_probs(seed, 4, 5)
        expected = written_down(log_probs, SlowMixture(lm, second, 0.3), UNPRUNED)
        assert any("never" in text.split() for text in expected)
        assert_equal(decoder, log_probs, expected)


def spoken_frames(*labels: int, certainty: float = 0.9) -> np.ndarray:
    probs = np.full((len(labels), 5), (1 - certainty) / 4)
    probs[np.arange(len(labels)), labels] = certainty
    return np.log(probs)


def test_homophones_are_both_there_and_the_n_gram_decides(lm: ArrayNgram) -> None:
    found = PhoneBeamDecoder(LEXICON, lm, SETTINGS).decode(spoken_frames(4, 0, 3, 2))
    by_text = {h.text: h.scores for h in found}
    assert by_text["be ab"].acoustic == pytest.approx(by_text["bee ab"].acoustic, abs=1e-9)
    assert by_text["be ab"].ngram != by_text["bee ab"].ngram
    assert by_text[found[0].text].total == max(scores.total for scores in by_text.values())


def test_equally_good_texts_are_in_alphabetical_order() -> None:
    found = PhoneBeamDecoder(LEXICON, None, SETTINGS).decode(spoken_frames(4, 4, 0))
    texts = [h.text for h in found if h.text in ("be", "bee")]
    assert texts == ["be", "bee"]
    assert len({h.scores.total for h in found if h.text in texts}) == 1


def test_pronunciations_of_a_text_add_up() -> None:
    log_probs = spoken_frames(4, 1, certainty=0.5)
    (ba,) = (h for h in PhoneBeamDecoder(LEXICON, None, UNPRUNED).decode(log_probs) if h.text == "ba")
    one = Lexicon(pronouncing({"ba": "B A"}))
    (alone,) = (h for h in PhoneBeamDecoder(one, None, UNPRUNED).decode(log_probs) if h.text == "ba")
    assert ba.scores.acoustic > alone.scores.acoustic + 0.1


def test_the_same_label_twice_needs_a_blank_between() -> None:
    decoder = PhoneBeamDecoder(Lexicon(pronouncing({"a": "A"})), None, SETTINGS)
    assert decoder.decode(spoken_frames(3, 0, 3, certainty=0.99))[0].text == "a a"
    assert decoder.decode(spoken_frames(3, 3, 3, certainty=0.99))[0].text == "a"


def test_a_recording_without_frames_or_with_nothing_but_blanks_has_the_empty_text() -> None:
    decoder = PhoneBeamDecoder(LEXICON, None, SETTINGS)
    (nothing,) = decoder.decode(np.zeros((0, 5)))
    assert (nothing.text, nothing.scores.total) == ("", 0.0)
    blanks = np.full((700, 5), -np.inf)
    blanks[:, 0] = math.log(0.5)
    (silence,) = decoder.decode(blanks)
    assert silence.text == ""
    assert silence.scores.acoustic == pytest.approx(700 * math.log(0.5))


def test_where_no_word_fits_there_is_no_text() -> None:
    inside = np.full((1, 5), -np.inf)
    inside[0, 1] = 0.0
    assert PhoneBeamDecoder(LEXICON, None, SETTINGS).decode(inside) == []


def test_a_lexicon_of_words_that_the_n_gram_lacks_finds_nothing(lm: ArrayNgram) -> None:
    decoder = PhoneBeamDecoder(Lexicon(pronouncing({"never": "A"})), lm, SETTINGS)
    assert [h.text for h in decoder.decode(spoken_frames(3, 0))] == [""]


def test_a_narrow_beam_keeps_its_width_and_answers_the_same_again(lm: ArrayNgram) -> None:
    """Through more frames than are searched at once, all crowded."""
    log_probs = random_log_probs(1, 300, 5, 0.5)
    exact = PhoneBeamDecoder(LEXICON, lm, replace(SETTINGS, phone_beam_width=400)).decode(log_probs)
    for width in (1, 3, 40):
        decoder = PhoneBeamDecoder(LEXICON, lm, replace(SETTINGS, phone_beam_width=width))
        found = decoder.decode(log_probs)
        assert found == decoder.decode(log_probs)
        assert len(found) <= 3 * width  # words that are pronounced alike
        assert not found or found[0].scores.total <= exact[0].scores.total + 1e-9


def test_far_less_probable_hypotheses_are_dropped(lm: ArrayNgram) -> None:
    log_probs = random_log_probs(1, 8, 5, 3.0)
    few = PhoneBeamDecoder(LEXICON, lm, replace(SETTINGS, beam_prune_logp=-1.0)).decode(log_probs)
    all_of_them = PhoneBeamDecoder(LEXICON, lm, SETTINGS).decode(log_probs)
    assert len(few) < len(all_of_them)
    assert len(PhoneBeamDecoder(LEXICON, lm, SETTINGS).decode(log_probs, limit=7)) == 7


def test_time_is_up() -> None:
    with pytest.raises(DecodingTimeoutError, match="passed its 0 s"):
        PhoneBeamDecoder(LEXICON, None, SETTINGS).decode(spoken_frames(3, 0), deadline_s=0.0)


def test_wrong_posteriors_are_named() -> None:
    decoder = PhoneBeamDecoder(LEXICON, None, SETTINGS)
    with pytest.raises(ValueError, match="4 outputs"):
        decoder.decode(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="finite"):
        decoder.decode(np.full((3, 5), np.nan))


def test_the_tree_has_every_pronunciation_once() -> None:
    tree = LEXICON.tree
    held = defaultdict(set)
    for word in SPOKEN:
        for labels in PRONUNCIATIONS.of(word):
            node = 0
            for label in labels:
                children = range(tree.first_child[node], tree.first_child[node + 1])
                (node,) = (child for child in children if tree.label[child] == label)
            held[node].add(word)
    words = list(LEXICON.words)
    for node in range(len(tree.label)):
        at = tree.words[tree.first_word[node] : tree.first_word[node + 1]].tolist()
        assert [words[i] for i in at] == sorted(held[node])


def test_a_word_that_is_twice_pronounced_so_counts_once() -> None:
    twice = PhoneBeamDecoder(Lexicon(pronouncing({"a": "A\tA"})), None, UNPRUNED)
    once = PhoneBeamDecoder(Lexicon(pronouncing({"a": "A"})), None, UNPRUNED)
    log_probs = random_log_probs(0, 4, 5)
    assert twice.decode(log_probs) == once.decode(log_probs)
