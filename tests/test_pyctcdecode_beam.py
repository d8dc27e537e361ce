"""Beam search: equal to a slow reference, and one test per fault of pyctcdecode 0.5.0 that it works round."""

import gc
import logging
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyctcdecode.decoder import BeamSearchDecoderCTC, build_ctcdecoder

import asr.decoding.pyctcdecode_beam
from asr.decoding.alignment import place_words
from asr.decoding.greedy import greedy
from asr.decoding.hotwords import HotwordScorer
from asr.decoding.ngram import NgramLM
from asr.decoding.options import DecodingSettings
from asr.decoding.posteriors import keep_best_tokens
from asr.decoding.pyctcdecode_beam import PyctcdecodeDecoder
from asr.errors import DecodingTimeoutError, MismatchError
from asr.tokenizer import Tokenizer
from tests.reference_beam import (
    MARK,
    ScriptedTokenizer,
    all_paths,
    best_first,
    prefix_search,
    random_log_probs,
    spelled,
)
from tests.tiny_lm import make_lm

SETTINGS = DecodingSettings(alpha=0.6, beta=0.7, unknown_word_logp=-4.0)
UNPRUNED = replace(
    SETTINGS, beam_width=10**6, beam_prune_logp=-1e9, token_min_logp=-1e9, max_tokens_per_frame=10**6
)
FRUIT = ScriptedTokenizer("_an", "_a", "pp", "p", "le", "e", "n", "_pe", "ar", "_new", "_york", "_xylo")


@pytest.fixture
def lm(tmp_path: Path) -> NgramLM:
    return make_lm(tmp_path)


def spell(text: str, certainty: float = 0.9, frames_per_token: int = 1) -> np.ndarray:
    labels = [label for i in FRUIT.encode(text) for label in [i] * frames_per_token + [0]]
    return spelled(FRUIT, labels, certainty)


# --- against the reference ---


@pytest.mark.parametrize("seed", range(3))
def test_reference_prefix_search_sums_all_paths(seed: int) -> None:
    tokenizer = ScriptedTokenizer("_a", "b", "_ab")
    log_probs = random_log_probs(seed, 5, tokenizer.vocab_size)
    found, expected = prefix_search(log_probs, tokenizer), all_paths(log_probs, tokenizer)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("with_lm", [False, True])
def test_unpruned_search_equals_the_reference(seed: int, with_lm: bool, lm: NgramLM) -> None:
    tokenizer = ScriptedTokenizer("_an", "_a", "n", "_pe", "ar")  # "an" has two segmentations, "a" is unknown
    log_probs = random_log_probs(seed, 4, tokenizer.vocab_size, scale=2.0)

    def language(text: str) -> float:
        score = UNPRUNED.beta * len(text.split())
        if with_lm:
            score += UNPRUNED.alpha * lm.score(text)
            score += UNPRUNED.unknown_word_logp * sum(word not in lm for word in text.split())
        return score

    expected = best_first(prefix_search(log_probs, tokenizer), language)
    found = PyctcdecodeDecoder(tokenizer, lm if with_lm else None, UNPRUNED).decode(log_probs)
    assert [h.text for h in found] == [text for text, _ in expected]
    assert [h.scores.total for h in found] == pytest.approx([total for _, total in expected], abs=1e-3)


def test_default_pruning_finds_the_references_best_text(lm: NgramLM) -> None:
    log_probs = spell("an apple", certainty=0.6)
    tokenizer_best = PyctcdecodeDecoder(FRUIT, lm, UNPRUNED).decode(log_probs[:4])[0]
    assert PyctcdecodeDecoder(FRUIT, lm, SETTINGS).decode(log_probs[:4])[0].text == tokenizer_best.text


def test_language_model_overrules_the_acoustics(lm: NgramLM) -> None:
    # "an pple" and "an apple": a frame that slightly prefers nothing over the piece that begins the word.
    log_probs = spell("an apple")
    log_probs[2] = np.log(0.01)
    log_probs[2, [0, FRUIT.pieces.index(f"{MARK}a")]] = np.log([0.5, 0.4])
    assert greedy(log_probs, FRUIT).text == "anpple"
    assert PyctcdecodeDecoder(FRUIT, lm, SETTINGS).decode(log_probs)[0].text == "an apple"


# --- the list that comes back ---


@hypothesis_settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n_frames=st.integers(0, 12), scale=st.floats(0.0, 6.0))
def test_hypotheses_are_unique_sorted_and_add_up(
    seed: int, n_frames: int, scale: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lm = make_lm(tmp_path_factory.mktemp("lm"))
    log_probs = random_log_probs(seed, n_frames, FRUIT.vocab_size, scale)
    found = PyctcdecodeDecoder(FRUIT, lm, replace(SETTINGS, beam_width=20)).decode(
        log_probs, hotwords=["new york", "ar"]
    )
    texts, totals = [h.text for h in found], [h.scores.total for h in found]
    assert 1 <= len(found) <= 20
    assert len(set(texts)) == len(texts)
    assert list(zip(totals, texts, strict=True)) == sorted(
        zip(totals, texts, strict=True), key=lambda item: (-item[0], item[1])
    )
    for h in found:
        s = h.scores
        assert s.total == s.acoustic + s.ngram + s.hotwords + s.gpt2 + s.length
        assert s.gpt2 == 0.0
        assert s.length == pytest.approx(SETTINGS.beta * len(h.text.split()))


def test_equal_totals_come_in_alphabetical_order() -> None:
    tokenizer = ScriptedTokenizer("_b", "_a")
    log_probs = np.log(np.array([[0.2, 0.4, 0.4]]))
    assert [h.text for h in PyctcdecodeDecoder(tokenizer, None, SETTINGS).decode(log_probs)] == ["a", "b", ""]


def test_same_input_gives_the_same_list(lm: NgramLM) -> None:
    log_probs = random_log_probs(3, 20, FRUIT.vocab_size)
    decoder = PyctcdecodeDecoder(FRUIT, lm, SETTINGS)
    first = decoder.decode(log_probs, hotwords=["pear"])
    decoder.decode(random_log_probs(4, 9, FRUIT.vocab_size))
    assert decoder.decode(log_probs, hotwords=["pear"]) == first
    assert PyctcdecodeDecoder(FRUIT, lm, SETTINGS).decode(log_probs.copy(), hotwords=["pear"]) == first


# --- one test per fault ---


def test_pyctcdecode_itself_still_splits_words_at_a_rival_word_mark() -> None:
    """The fault that the next two tests guard against; when this fails, the workaround can go."""
    labels = ["", MARK, f"{MARK}b", "c"]
    probs = np.array([[0.02, 0.02, 0.94, 0.02], [0.0, 0.45, 0.0, 0.55]]) + 1e-9
    logging.disable(logging.WARNING)
    try:
        decoder = build_ctcdecoder(labels)
    finally:
        logging.disable(logging.NOTSET)
    assert decoder.decode(np.log(probs)) == "b c"
    decoder.cleanup()


@pytest.mark.parametrize(
    "piece",
    [
        MARK,
        "<unk>",
        "[UNK]",
        "<pad>",
        f"{MARK}\u2047{MARK}",
        "\u2047",
        f"a{MARK}",
        f"a{MARK}b",
        "##a",
        "a b",
        "",
    ],
)
def test_tokenizers_with_pieces_that_break_words_are_refused(piece: str) -> None:
    tokenizer = ScriptedTokenizer("_a", "b", piece)
    with pytest.raises(MismatchError, match="pieces"):
        PyctcdecodeDecoder(tokenizer, None, SETTINGS)


def test_tokenizers_without_word_starts_or_with_a_piece_twice_are_refused() -> None:
    with pytest.raises(MismatchError, match="starts a word"):
        PyctcdecodeDecoder(ScriptedTokenizer("a", "b"), None, SETTINGS)
    with pytest.raises(MismatchError, match="twice"):
        PyctcdecodeDecoder(ScriptedTokenizer("_a", "b", "b"), None, SETTINGS)


def test_rival_word_start_does_not_split_other_beams_words() -> None:
    tokenizer = ScriptedTokenizer("_a", "_b", "c")
    log_probs = np.log(np.array([[0.02, 0.02, 0.94, 0.02], [0.01, 0.44, 0.01, 0.54]]))
    assert [h.text for h in PyctcdecodeDecoder(tokenizer, None, SETTINGS).decode(log_probs)][:2] == [
        "b a",
        "bc",
    ]
    no_beta = replace(SETTINGS, beta=0.0)
    assert PyctcdecodeDecoder(tokenizer, None, no_beta).decode(log_probs)[0].text == "bc"


def test_columns_are_the_tokenizers_ids_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        decoder = PyctcdecodeDecoder(FRUIT, None, SETTINGS)
        for i in range(1, FRUIT.vocab_size):
            assert decoder.decode(spelled(FRUIT, [i]))[0].text == FRUIT.decode([i])
    assert not caplog.records


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_flat_posteriors_try_few_tokens_per_frame(scale: float) -> None:
    flat = random_log_probs(0, 6, 40, scale)
    kept = keep_best_tokens(flat, min_logp=-6.0, max_per_frame=5)
    assert (np.isfinite(kept).sum(axis=1) == 5).all()
    assert (kept.max(axis=1) == flat.max(axis=1)).all()
    if scale == 0.0:
        assert np.isfinite(kept[:, :5]).all()  # on ties the lower ids


def test_the_best_token_is_tried_even_below_the_threshold() -> None:
    log_probs = random_log_probs(0, 3, 40, 0.1)
    kept = keep_best_tokens(log_probs, min_logp=-0.1, max_per_frame=5)
    assert (np.isfinite(kept).sum(axis=1) == 1).all()


def test_capping_tokens_does_not_renormalise_what_stays() -> None:
    log_probs = random_log_probs(1, 4, FRUIT.vocab_size)
    one = PyctcdecodeDecoder(FRUIT, None, replace(UNPRUNED, max_tokens_per_frame=1)).decode(log_probs)
    assert [h.text for h in one] == [greedy(log_probs, FRUIT).text]
    assert one[0].scores.acoustic == pytest.approx(greedy(log_probs, FRUIT).scores.acoustic, abs=1e-9)


def test_deadline_stops_the_search() -> None:
    flat = random_log_probs(0, 50_000, FRUIT.vocab_size, 0.01)
    decoder = PyctcdecodeDecoder(FRUIT, None, SETTINGS)
    started = time.monotonic()
    with pytest.raises(DecodingTimeoutError, match=r"0\.2 s"):
        decoder.decode(flat, deadline_s=0.2)
    assert time.monotonic() - started < 20  # far from the minutes it would take; no test of speed
    with pytest.raises(DecodingTimeoutError):
        decoder.decode(flat, deadline_s=0.0)
    assert decoder.decode(flat[:3], deadline_s=60.0)


def test_word_list_comes_from_its_file_not_from_the_arpa(tmp_path: Path) -> None:
    # pyctcdecode's ARPA reader skips 1-grams without a backoff column: all words but "an" and "new" here.
    lm = make_lm(tmp_path)
    found = PyctcdecodeDecoder(FRUIT, lm, SETTINGS).decode(spell("new york pear"))[0]
    assert found.text == "new york pear"
    assert found.scores.ngram == pytest.approx(SETTINGS.alpha * lm.score("new york pear"))


def test_ngram_part_equals_the_running_figure_of_the_search(lm: NgramLM) -> None:
    log_probs = spell("an apple xylo new", certainty=0.35)
    settings = replace(SETTINGS, beam_width=30)
    decoder = PyctcdecodeDecoder(FRUIT, lm, settings)
    kept = keep_best_tokens(log_probs, settings.token_min_logp, settings.max_tokens_per_frame)
    beams = decoder._search._decode_logits(
        kept,
        beam_width=30,
        beam_prune_logp=settings.beam_prune_logp,
        token_min_logp=settings.token_min_logp,
        prune_history=False,
        hotword_scorer=HotwordScorer([], 0.0, lm, settings.unknown_word_logp),
    )
    running = {text: total - acoustic for text, _, _, acoustic, total in beams}
    found = decoder.decode(log_probs)
    assert len(found) > 5
    assert any(" " in h.text for h in found)
    for h in found:
        assert h.scores.ngram + h.scores.length == pytest.approx(running[h.text], abs=1e-6)


def test_unknown_words_are_penalised_in_the_ngram_part(lm: NgramLM) -> None:
    found = PyctcdecodeDecoder(FRUIT, lm, SETTINGS).decode(spell("an xylo", certainty=0.999))[0]
    assert found.text == "an xylo"
    expected = SETTINGS.alpha * lm.score("an xylo") + SETTINGS.unknown_word_logp
    assert found.scores.ngram == pytest.approx(expected)


def test_decoders_in_one_process_keep_their_own_language_models(tmp_path: Path) -> None:
    tokenizer = ScriptedTokenizer("_new", "_york", "_pear")
    likes_york = make_lm(tmp_path / "york", {"new": -1.0, "york": -0.1, "pear": -4.0}, {("<s>", "new"): -0.1})
    likes_pear = make_lm(tmp_path / "pear", {"new": -1.0, "york": -4.0, "pear": -0.1}, {("<s>", "new"): -0.1})
    log_probs = np.log(np.array([[0.02, 0.94, 0.02, 0.02], [0.02, 0.02, 0.48, 0.48]]))
    york, pear = (
        PyctcdecodeDecoder(tokenizer, likes_york, SETTINGS),
        PyctcdecodeDecoder(tokenizer, likes_pear, SETTINGS),
    )
    for _ in range(2):
        assert york.decode(log_probs)[0].text == "new york"
        assert pear.decode(log_probs)[0].text == "new pear"
    BeamSearchDecoderCTC.clear_class_models()
    assert york.decode(log_probs)[0].text == "new york"


def test_dropped_decoders_free_their_language_models(tmp_path: Path) -> None:
    before = dict(BeamSearchDecoderCTC.model_container)
    lm = make_lm(tmp_path)
    decoder = PyctcdecodeDecoder(FRUIT, lm, SETTINGS)
    decoder.decode(spell("an apple"))
    assert before == BeamSearchDecoderCTC.model_container
    alive = weakref.ref(lm)
    del lm, decoder
    gc.collect()
    assert alive() is None


def test_silence_is_not_scored_as_an_unknown_word(lm: NgramLM) -> None:
    decoder = PyctcdecodeDecoder(FRUIT, lm, SETTINGS)
    for log_probs in (np.zeros((0, FRUIT.vocab_size)), spelled(FRUIT, [0] * 20, certainty=0.9999)):
        (found,) = decoder.decode(log_probs)
        assert found.text == ""
        assert found.scores.ngram == pytest.approx(SETTINGS.alpha * lm.score(""))
        assert found.scores.length == 0.0
    # A frame that may be a word: the empty text must not pay beta and a penalty for a word it does not have.
    assert decoder.decode(spelled(FRUIT, [0], certainty=0.9))[0].text == ""


def test_forgetting_dead_texts_changes_nothing(lm: NgramLM, monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = random_log_probs(8, 60, FRUIT.vocab_size, 1.5)
    decoder = PyctcdecodeDecoder(FRUIT, lm, replace(SETTINGS, beam_width=15))
    hotwords = ["new york", "pear", "apple an"]
    expected = decoder.decode(log_probs, hotwords=hotwords)
    monkeypatch.setattr(asr.decoding.pyctcdecode_beam, "_MAX_CACHED_TEXTS", 1)
    assert decoder.decode(log_probs, hotwords=hotwords) == expected


def test_real_tokenizer_gives_the_same_words_as_greedy(tiny_tokenizer_model: bytes, tmp_path: Path) -> None:
    tokenizer = Tokenizer(tiny_tokenizer_model)
    words = ["we", "don't", "know", "the", "cat"]
    lm = make_lm(tmp_path, dict.fromkeys(words, -1.5), {("<s>", "we"): -0.5})
    text = " ".join(words)
    log_probs = spelled(tokenizer, [label for i in tokenizer.encode(text) for label in (0, i)])
    assert greedy(log_probs, tokenizer).text == text
    found = PyctcdecodeDecoder(tokenizer, lm, SETTINGS).decode(
        log_probs, hotwords=["don't know"], hotword_weight=1.0
    )[0]
    assert found.text == text
    assert found.scores.hotwords == pytest.approx(2.0)
    placed = place_words(log_probs, text, tokenizer)
    assert [w.word for w in placed] == text.split()
