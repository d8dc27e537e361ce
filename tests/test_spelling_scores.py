"""Texts scored by their spellings: against all paths written down, and against beam search."""

from dataclasses import replace

import numpy as np
import pytest

from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.mixed_ngram import MixedNgram
from asr.decoding.native_beam import NativeBeamDecoder
from asr.decoding.options import DecodingSettings
from asr.decoding.spelling_scores import ExactSpelling
from asr.decoding.text_ngram import text_table
from tests.reference_beam import ScriptedTokenizer, all_paths, prefix_search, random_log_probs, spelled
from tests.tiny_lm import make_array_lm

SETTINGS = DecodingSettings(alpha=0.6, beta=0.7, unknown_word_logp=-4.0)
UNPRUNED = replace(
    SETTINGS, beam_width=3000, beam_prune_logp=-1e9, token_min_logp=-1e9, max_tokens_per_frame=10**6
)
# Several spellings of a word, the same piece twice in a row, pieces without a mark that may begin a text.
PIECES = (
    ("_a", "b", "_ab"),
    ("_a", "_b", "a", "b"),
    ("_a", "a", "aa", "_ba"),
    ("_a", "ab", "a", "b", "bb", "_bb"),
)
FRUIT = ScriptedTokenizer("_an", "_a", "pp", "p", "le", "e", "n", "_pe", "ar", "_new", "_york", "_xylo")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> ArrayNgram:
    return make_array_lm(tmp_path_factory.mktemp("lm"))


@pytest.mark.parametrize("pieces", PIECES)
def test_scores_are_the_sum_over_all_paths(pieces: tuple[str, ...]) -> None:
    tokenizer = ScriptedTokenizer(*pieces)
    spelling = ExactSpelling(tokenizer.pieces)
    for seed in range(12):
        log_probs = random_log_probs(seed, seed % 6, tokenizer.vocab_size, 1 + seed % 3)
        expected = (all_paths if seed % 6 < 4 else prefix_search)(log_probs, tokenizer)
        found = spelling.logps(log_probs, list(expected))
        assert found == pytest.approx(list(expected.values()), abs=1e-9)


def test_a_text_scores_the_same_alone_and_among_others() -> None:
    spelling = ExactSpelling(FRUIT.pieces)
    rng = np.random.default_rng(9)
    words = ["an", "apple", "ape", "pear", "new", "york", "anne", "xyloe"]
    texts = [" ".join(rng.choice(words, rng.integers(0, 9))) for _ in range(60)]
    log_probs = random_log_probs(5, 70, FRUIT.vocab_size, 3.0)
    together = spelling.logps(log_probs, texts)
    assert together.tolist() == [spelling.logps(log_probs, [text])[0] for text in texts]


def test_long_recordings_do_not_underflow() -> None:
    """Thousands of frames, against the path that is nearly certain."""
    labels = [label for word in 400 * ["an", "pear"] for i in FRUIT.encode(word) for label in (i, i, 0, 0)]
    log_probs = spelled(FRUIT, labels, certainty=0.999999)
    path = float(log_probs[np.arange(len(labels)), labels].sum())
    (found,) = ExactSpelling(FRUIT.pieces).logps(log_probs, [" ".join(400 * ["an", "pear"])])
    assert path < found < path + 0.1


def test_what_cannot_be_spelled_or_does_not_fit_scores_far_below_any_other() -> None:
    spelling = ExactSpelling(FRUIT.pieces)
    log_probs = random_log_probs(1, 3, FRUIT.vocab_size)
    fits, strange, half, long = spelling.logps(log_probs, ["an", "\u00fcber", "anq", "new york new york"])
    assert max(strange, half, long) < fits - 600
    assert np.isfinite([strange, half, long]).all()


def test_texts_get_what_beam_search_gives_them(lm: ArrayNgram) -> None:
    """Every part, hotwords and unknown words included; nothing is pruned, so the sums are the same, too."""
    second = ArrayNgram.of(text_table([["new", "anne"], ["pear", "anne"]]))
    for model in (None, lm, MixedNgram(lm, second, 0.3)):
        decoder = NativeBeamDecoder(FRUIT, model, replace(UNPRUNED, beam_width=400, max_tokens_per_frame=4))
        log_probs = random_log_probs(4, 5, FRUIT.vocab_size, 2.0)
        for hotwords, weight in (((), None), (("anne pear", "pear", "xylo"), 2.5), (("an", "new york"), 0.0)):
            found = decoder.decode(log_probs, hotwords=hotwords, hotword_weight=weight)
            texts = [h.text for h in found]
            scored = decoder.score(log_probs, texts, hotwords=hotwords, hotword_weight=weight)
            assert [h.text for h in scored] == texts
            for one, other in zip(found, scored, strict=True):
                parts = [(s.ngram, s.hotwords, s.length) for s in (one.scores, other.scores)]
                assert parts[0] == pytest.approx(parts[1], abs=1e-9)
                assert other.scores.acoustic >= one.scores.acoustic - 1e-9


def test_the_labels_prior_is_divided_by_as_in_beam_search() -> None:
    prior = tuple(np.linspace(0.01, 0.2, FRUIT.vocab_size))
    settings = replace(UNPRUNED, prior_weight=0.5, label_prior=prior)
    decoder = NativeBeamDecoder(FRUIT, None, settings)
    log_probs = random_log_probs(4, 3, FRUIT.vocab_size, 2.0)
    found = decoder.decode(log_probs)[:50]
    scored = decoder.score(log_probs, [h.text for h in found])
    assert [h.scores.total for h in scored] == pytest.approx([h.scores.total for h in found], abs=1e-6)


def test_no_texts_and_the_empty_one() -> None:
    decoder = NativeBeamDecoder(FRUIT, None, SETTINGS)
    log_probs = random_log_probs(4, 3, FRUIT.vocab_size)
    assert decoder.score(log_probs, []) == []
    (empty,) = decoder.score(log_probs, [""])
    assert empty.scores.total == pytest.approx(log_probs[:, 0].sum())
    (nothing,) = decoder.score(log_probs[:0], [""])
    assert nothing.scores.total == 0.0


def test_a_separator_between_words_is_refused() -> None:
    tokenizer = ScriptedTokenizer("_", "a", "b")
    with pytest.raises(ValueError, match="separator"):
        NativeBeamDecoder(tokenizer, None, SETTINGS).score(random_log_probs(0, 2, 4), ["a"])


def test_words_of_hundreds_of_letters_and_many_of_them() -> None:
    """As over noise: more than the first room holds, with beginnings in common, and words after them."""
    tokenizer = ScriptedTokenizer("_a", "_b", "a", "b", "ab", "ba")
    spelling = ExactSpelling(tokenizer.pieces)
    rng = np.random.default_rng(3)
    begin = "".join(rng.choice(["a", "b"], 250))
    words = [begin + "".join(rng.choice(["a", "b"], rng.integers(1, 60))) for _ in range(60)]
    texts = [*words, *(f"{word} a" for word in words[:30]), *(f"b {word} ab" for word in words[:30]), begin]
    log_probs = random_log_probs(3, 330, tokenizer.vocab_size, 1.0)
    together = spelling.logps(log_probs, texts)
    assert together.min() > -2000
    assert together.tolist() == [spelling.logps(log_probs, [text])[0] for text in texts]
