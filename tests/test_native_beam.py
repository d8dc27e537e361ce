"""Native beam search: equal to the slow one in tests/reference_beam.py, and cases with names."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.decoding.arpa import read_model
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.greedy import greedy
from asr.decoding.mixed_ngram import MixedNgram
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import DecodingSettings
from asr.decoding.posteriors import keep_best_tokens
from asr.decoding.text_ngram import text_table
from asr.errors import DecodingTimeoutError, MismatchError
from tests.reference_beam import (
    MARK,
    ScriptedTokenizer,
    SlowLanguage,
    SlowMixture,
    all_paths,
    random_log_probs,
    slow_search,
    spelled,
)
from tests.tiny_lm import make_array_lm, random_arpa

SETTINGS = DecodingSettings(alpha=0.6, beta=0.7, unknown_word_logp=-4.0)
UNPRUNED = replace(
    SETTINGS, beam_width=3000, beam_prune_logp=-1e9, token_min_logp=-1e9, max_tokens_per_frame=10**6
)
FRUIT = ScriptedTokenizer("_an", "_a", "pp", "p", "le", "e", "n", "_pe", "ar", "_new", "_york", "_xylo")
# Two segmentations of most words, letters without a mark that may begin the text, and a separator.
PIECES = (
    ("_a", "b", "_ab"),
    ("_a", "_b", "a", "b"),
    ("_a", "a", "aa", "_ba"),
    ("_", "a", "b"),
    ("_", "ab", "a", "b", "c"),
)
WORDS = ["a", "ab", "aba", "b", "ba", "aa", "bb"]
PHRASES = ("a", "ab a", "b", "ba ba", "abb", "a a b", "bab", "aa")
RANDOM_CASES = 2400
MIXED_CASES = 2400


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> ArrayNgram:
    return make_array_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def random_lm(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArrayNgram, dict[str, float]]:
    """A trigram model over WORDS, and the natural-log probabilities of single words."""
    path = tmp_path_factory.mktemp("random") / "lm.arpa"
    table = read_model(random_arpa(path, np.random.default_rng(0), WORDS, 3, share=0.5))
    logps = (table.levels[0].logp.astype(float) * math.log(10)).tolist()
    return ArrayNgram.of(table), dict(zip(table.words, logps, strict=True))


def spell(text: str, certainty: float = 0.9) -> np.ndarray:
    return spelled(FRUIT, [label for i in FRUIT.encode(text) for label in (i, 0)], certainty)


# --- against the slow search ---


@pytest.mark.parametrize("number", range(len(PIECES)))
@pytest.mark.parametrize("with_lm", [False, True])
@pytest.mark.parametrize("with_hotwords", [False, True])
def test_equals_the_slow_search(
    number: int, with_lm: bool, with_hotwords: bool, random_lm: tuple[ArrayNgram, dict[str, float]]
) -> None:
    """Texts, their order, acoustics and totals, pruned in all the ways that there are; 2,400 cases in all."""
    lm, unigrams = random_lm if with_lm else (None, {})
    assert_equal_to_the_slow_search(number, with_hotwords, lm, unigrams, lm, RANDOM_CASES)


def assert_equal_to_the_slow_search(
    number: int,
    with_hotwords: bool,
    slow_lm: ArrayNgram | SlowMixture | None,
    unigrams: dict[str, float],
    lm: ArrayNgram | MixedNgram | None,
    n_cases: int,
) -> None:
    """On some of n_cases: those of one of the tokenizers, with one of the three language models."""
    tokenizer = ScriptedTokenizer(*PIECES[number])
    rng = np.random.default_rng([number, lm is not None, with_hotwords])
    for _ in range(4):  # decoders
        settings = DecodingSettings(
            alpha=rng.uniform(0, 2),
            beta=rng.uniform(-2, 2),
            unknown_word_logp=rng.uniform(-6, 1),
            beam_width=int(rng.integers(1, 9)),
            beam_prune_logp=-rng.uniform(0.5, 12),
            token_min_logp=-rng.uniform(1, 8),
            max_tokens_per_frame=int(rng.integers(1, 6)),
        )
        decoder = NativeBeamDecoder(tokenizer, lm, settings)
        for _ in range(n_cases // (4 * 4 * len(PIECES))):
            log_probs = random_log_probs(
                int(rng.integers(2**31)), int(rng.integers(0, 9)), tokenizer.vocab_size, rng.uniform(0, 4)
            )
            hotwords = tuple(rng.choice(PHRASES, size=rng.integers(1, 6))) if with_hotwords else ()
            weight = float(rng.uniform(0.5, 6))
            language = SlowLanguage(settings, slow_lm, unigrams, hotwords, weight)
            kept = keep_best_tokens(log_probs, settings.token_min_logp, settings.max_tokens_per_frame)
            expected = slow_search(kept, tokenizer, language)
            found = decoder.decode(log_probs, hotwords=hotwords, hotword_weight=weight)
            assert [h.text for h in found] == [text for text, _, _ in expected]
            for h, (text, acoustic, total) in zip(found, expected, strict=True):
                assert h.scores.acoustic == pytest.approx(acoustic, abs=1e-4)
                assert h.scores.total == pytest.approx(total, abs=1e-4)
                parts = (h.scores.ngram, h.scores.hotwords, h.scores.length)
                assert parts == pytest.approx(language.parts(text), abs=1e-4)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("seed", range(3))
def test_unpruned_acoustics_are_the_exact_probability_of_the_text(pieces: Sequence[str], seed: int) -> None:
    """Of the labels, added up over every path that spells them; without a language model."""
    tokenizer = ScriptedTokenizer(*pieces)
    log_probs = random_log_probs(seed, 5, tokenizer.vocab_size, 2.0)
    found = NativeBeamDecoder(tokenizer, None, replace(UNPRUNED, beta=0.0)).decode(log_probs)
    assert {h.text: h.scores.acoustic for h in found} == pytest.approx(
        all_paths(log_probs, tokenizer), abs=1e-9
    )
    assert math.fsum(math.exp(h.scores.acoustic) for h in found) == pytest.approx(1.0, abs=1e-9)


@pytest.fixture(scope="module")
def mixed(random_lm: tuple[ArrayNgram, dict[str, float]]) -> tuple[SlowMixture, dict[str, float]]:
    """A text's trigrams mixed into random_lm: words of both, of one, of neither. And single words' logp."""
    first, first_logps = random_lm
    second = ArrayNgram.of(text_table([["ab", "bab"], ["bab", "abb", "ab"], ["caa"], ["a", "bab", "ab"]]))
    mixture = SlowMixture(first, second, 0.3)
    logps = {"<unk>": math.log(0.7) + first_logps["<unk>"]}
    for word in mixture.words:
        own = math.exp(first_logps[word]) if word in first else 0.0
        number = np.array([second.number(word)])
        other = 10.0 ** float(second.unigrams(number)[0]) if word in second else 0.0
        logps[word] = math.log(0.7 * own + 0.3 * other)
    return mixture, logps


@pytest.mark.parametrize("number", range(len(PIECES)))
@pytest.mark.parametrize("with_hotwords", [False, True])
def test_equals_the_slow_search_with_a_text_mixed_in(
    number: int, with_hotwords: bool, mixed: tuple[SlowMixture, dict[str, float]]
) -> None:
    mixture, unigrams = mixed
    lm = MixedNgram(mixture.first, mixture.second, mixture.weight)
    assert_equal_to_the_slow_search(number, with_hotwords, mixture, unigrams, lm, MIXED_CASES)


# --- named cases ---


def test_repeats_need_a_blank_between_them() -> None:
    tokenizer = ScriptedTokenizer("_a", "b")
    decoder = NativeBeamDecoder(tokenizer, None, replace(UNPRUNED, beta=0.0))
    assert decoder.decode(spelled(tokenizer, [1, 2, 2]))[0].text == "ab"
    assert decoder.decode(spelled(tokenizer, [1, 2, 0, 2]))[0].text == "abb"


@pytest.mark.parametrize("n_frames", [1, 7, 200])
def test_all_blank_is_the_empty_text(n_frames: int, lm: ArrayNgram) -> None:
    for certainty in (0.9999, 0.9):
        best = NativeBeamDecoder(FRUIT, lm, SETTINGS).decode(spelled(FRUIT, [0] * n_frames, certainty))[0]
        if n_frames < 200 or certainty > 0.99:
            assert best.text == ""
            assert best.scores.ngram == pytest.approx(SETTINGS.alpha * lm.score(""))
            assert best.scores.length == best.scores.hotwords == 0.0


def test_no_frame_is_the_empty_text(lm: ArrayNgram) -> None:
    (only,) = NativeBeamDecoder(FRUIT, lm, SETTINGS).decode(np.zeros((0, FRUIT.vocab_size)))
    assert (only.text, only.scores.acoustic) == ("", 0.0)


def test_one_frame_lists_its_labels(lm: ArrayNgram) -> None:
    tokenizer = ScriptedTokenizer("_an", "_pear")
    found = NativeBeamDecoder(tokenizer, None, replace(UNPRUNED, beta=0.0)).decode(np.log([[0.5, 0.2, 0.3]]))
    assert [(h.text, round(math.exp(h.scores.acoustic), 6)) for h in found] == [
        ("", 0.5),
        ("pear", 0.3),
        ("an", 0.2),
    ]


def test_segmentations_of_a_word_are_one_text() -> None:
    tokenizer = ScriptedTokenizer("_an", "_a", "n")
    log_probs = np.log([[0.1, 0.4, 0.4, 0.1], [0.4, 0.1, 0.1, 0.4]])
    texts = [h.text for h in NativeBeamDecoder(tokenizer, None, UNPRUNED).decode(log_probs)]
    assert sorted(texts) == sorted(set(texts))


def test_a_rival_word_start_does_not_split_other_words() -> None:
    tokenizer = ScriptedTokenizer("_a", "_b", "c")
    log_probs = np.log(np.array([[0.02, 0.02, 0.94, 0.02], [0.01, 0.44, 0.01, 0.54]]))
    decoder = NativeBeamDecoder(tokenizer, None, SETTINGS)
    assert [h.text for h in decoder.decode(log_probs)][:2] == ["b a", "bc"]
    assert NativeBeamDecoder(tokenizer, None, replace(SETTINGS, beta=0.0)).decode(log_probs)[0].text == "bc"


def test_ties_have_one_order() -> None:
    tokenizer = ScriptedTokenizer("_b", "_a")
    tied = np.log(np.array([[0.2, 0.4, 0.4]]))
    decoder = NativeBeamDecoder(tokenizer, None, SETTINGS)
    assert [h.text for h in decoder.decode(tied)] == ["a", "b", ""]
    # Of equals the first label stays when the beam has room for one.
    narrow = NativeBeamDecoder(tokenizer, None, replace(SETTINGS, beam_width=1))
    assert [h.text for h in narrow.decode(tied)] == ["b"]
    flat = np.full((30, FRUIT.vocab_size), -math.log(FRUIT.vocab_size))
    first = NativeBeamDecoder(FRUIT, None, replace(SETTINGS, beam_width=7)).decode(flat)
    assert NativeBeamDecoder(FRUIT, None, replace(SETTINGS, beam_width=7)).decode(flat.copy()) == first


def test_the_language_model_overrules_the_acoustics(lm: ArrayNgram) -> None:
    # "an pple" and "an apple": a frame that slightly prefers nothing over the piece that begins the word.
    log_probs = spell("an apple")
    log_probs[2] = np.log(0.01)
    log_probs[2, [0, FRUIT.pieces.index(f"{MARK}a")]] = np.log([0.5, 0.4])
    assert greedy(log_probs, FRUIT).text == "anpple"
    assert NativeBeamDecoder(FRUIT, lm, SETTINGS).decode(log_probs)[0].text == "an apple"


def test_unknown_words_can_be_written_at_their_penalty(lm: ArrayNgram) -> None:
    found = NativeBeamDecoder(FRUIT, lm, SETTINGS).decode(spell("an xylo", certainty=0.999))[0]
    assert found.text == "an xylo"
    expected = SETTINGS.alpha * lm.score("an xylo") + SETTINGS.unknown_word_logp
    assert found.scores.ngram == pytest.approx(expected, abs=1e-6)


def test_hotwords_earn_when_complete_and_pay_back_when_not(lm: ArrayNgram) -> None:
    decoder = NativeBeamDecoder(FRUIT, lm, SETTINGS)
    whole = decoder.decode(spell("new york", 0.99), hotwords=["new york"], hotword_weight=2.0)[0]
    part = decoder.decode(spell("new pear", 0.99), hotwords=["new york"], hotword_weight=2.0)[0]
    assert (whole.text, whole.scores.hotwords) == ("new york", pytest.approx(4.0))
    assert (part.text, part.scores.hotwords) == ("new pear", 0.0)


def test_hotwords_outside_the_vocabulary_get_their_penalty_back(lm: ArrayNgram) -> None:
    log_probs = spelled(FRUIT, [FRUIT.pieces.index(f"{MARK}xylo")], certainty=0.6)
    decoder = NativeBeamDecoder(FRUIT, lm, SETTINGS)
    assert decoder.decode(log_probs)[0].text != "xylo"
    found = decoder.decode(log_probs, hotwords=["xylo"], hotword_weight=3.0)[0]
    assert found.text == "xylo"
    assert found.scores.hotwords == pytest.approx(3.0 - SETTINGS.unknown_word_logp)
    assert decoder.decode(log_probs, hotwords=["xylo"], hotword_weight=0.0) == decoder.decode(log_probs)


def test_hotwords_that_the_pieces_cannot_spell_change_nothing(lm: ArrayNgram) -> None:
    decoder = NativeBeamDecoder(FRUIT, lm, SETTINGS)
    log_probs = spell("new york", 0.7)
    assert decoder.decode(log_probs, hotwords=["zzz", "", "7"]) == decoder.decode(log_probs)


def test_parts_add_up_and_texts_differ(lm: ArrayNgram) -> None:
    for seed in range(20):
        log_probs = random_log_probs(seed, 12, FRUIT.vocab_size, seed / 5)
        found = NativeBeamDecoder(FRUIT, lm, replace(SETTINGS, beam_width=20)).decode(
            log_probs, hotwords=["new york", "ar"]
        )
        assert 1 <= len(found) <= 20
        assert len({h.text for h in found}) == len(found)
        for a, b in itertools.pairwise(found):
            assert (-a.scores.total, a.text) < (-b.scores.total, b.text)
        for h in found:
            s = h.scores
            assert s.total == pytest.approx(s.acoustic + s.ngram + s.hotwords + s.gpt2 + s.length, abs=1e-9)
            parts = lm.parts(h.text)
            expected = SETTINGS.alpha * parts.logp + SETTINGS.unknown_word_logp * parts.n_unknown
            assert s.ngram == pytest.approx(expected, abs=1e-6)


def test_a_call_leaves_nothing_behind(lm: ArrayNgram) -> None:
    decoder = NativeBeamDecoder(FRUIT, lm, SETTINGS)
    log_probs = random_log_probs(3, 150, FRUIT.vocab_size, 2.0)
    first = decoder.decode(log_probs, hotwords=["pear"])
    decoder.decode(random_log_probs(4, 9, FRUIT.vocab_size), hotwords=["an"])
    assert decoder.decode(log_probs, hotwords=["pear"]) == first


def test_where_the_clock_is_looked_at_changes_nothing(
    lm: ArrayNgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = NativeBeamDecoder(FRUIT, lm, SETTINGS)
    log_probs = random_log_probs(5, 130, FRUIT.vocab_size, 1.5)
    expected = decoder.decode(log_probs)
    for n in (1, 7, 1000):
        monkeypatch.setattr("asr.decoding.native_beam._FRAMES_AT_ONCE", n)
        assert decoder.decode(log_probs) == expected


@pytest.mark.parametrize("separator", [False, True])
def test_a_limit_keeps_the_best_of_the_list(lm: ArrayNgram, separator: bool) -> None:
    tokenizer = ScriptedTokenizer("_", "a", "b") if separator else FRUIT
    decoder = NativeBeamDecoder(tokenizer, None if separator else lm, SETTINGS)
    log_probs = random_log_probs(6, 12, tokenizer.vocab_size, 1.0)
    every = decoder.decode(log_probs)
    assert len(every) > 3
    for limit in (1, 3, len(every), len(every) + 1):
        assert decoder.decode(log_probs, limit=limit) == every[:limit]


def test_equal_totals_are_alphabetical_under_a_limit_too() -> None:
    tokenizer = ScriptedTokenizer("_c", "_b", "_a")
    decoder = NativeBeamDecoder(tokenizer, None, replace(UNPRUNED, beta=0.0))
    found = decoder.decode(np.log([[0.1, 0.3, 0.3, 0.3]]), limit=2)
    assert [h.text for h in found] == ["a", "b"]


def test_the_deadline_stops_the_search() -> None:
    flat = random_log_probs(0, 50_000, FRUIT.vocab_size, 0.01)
    decoder = NativeBeamDecoder(FRUIT, None, SETTINGS)
    with pytest.raises(DecodingTimeoutError, match=r"0\.05 s"):
        decoder.decode(flat, deadline_s=0.05)
    with pytest.raises(DecodingTimeoutError):
        decoder.decode(flat[:3], deadline_s=0.0)
    assert decoder.decode(flat[:3], deadline_s=60.0)


@pytest.mark.parametrize(
    "piece", ["<unk>", "[UNK]", f"a{MARK}", f"{MARK}\u2047{MARK}", "##a", "a b", "", "b", MARK]
)
def test_tokenizers_with_pieces_that_are_no_parts_of_words_are_refused(piece: str) -> None:
    tokenizer = ScriptedTokenizer("_a", "b", "c")
    tokenizer.pieces[3] = piece
    with pytest.raises(MismatchError, match=r"piece"):
        NativeBeamDecoder(tokenizer, None, SETTINGS)


def test_a_real_tokenizer_gives_the_words_of_greedy(tiny_tokenizer_model: bytes, tmp_path: Path) -> None:
    from asr.tokenizer import Tokenizer

    tokenizer = Tokenizer(tiny_tokenizer_model)
    words = ["we", "don't", "know", "the", "cat"]
    lm = make_array_lm(tmp_path, dict.fromkeys(words, -1.5), {("<s>", "we"): -0.5})
    text = " ".join(words)
    log_probs = spelled(tokenizer, [label for i in tokenizer.encode(text) for label in (0, i)])
    found = NativeBeamDecoder(tokenizer, lm, SETTINGS).decode(
        log_probs, hotwords=["don't know"], hotword_weight=1.0
    )[0]
    assert found.text == greedy(log_probs, tokenizer).text == text
    assert found.scores.hotwords == pytest.approx(2.0)
