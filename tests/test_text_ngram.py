"""A text's own n-gram: modified Kneser-Ney by its formulas, slowly; and the mixture with another model."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest

from asr.decoding.arpa import read_model
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.mixed_ngram import MixedNgram
from asr.decoding.posted_text import FEWEST_TO_HOLD_OUT, MAX_NEW_WORDS, Fit, fit_of, mixed_in
from asr.decoding.text_ngram import sentences_of, text_table
from asr.errors import OptionsError
from tests.reference_beam import SlowMixture
from tests.tiny_lm import random_arpa

LETTERS = list("abcdef")


class SlowKneserNey:
    """Chen and Goodman 1999, section 3.3, on dictionaries; P(word | words) of a text's own words."""

    def __init__(self, sentences: Sequence[Sequence[str]], order: int) -> None:
        padded = [("<s>", *words, "</s>") for words in sentences]
        self.words = sorted({word for words in padded for word in words} - {"<s>"})
        occurrences = [
            Counter(s[i : i + n] for s in padded for i in range(len(s) - n + 1)) for n in range(1, order + 1)
        ]
        self.counts = [occurrences[-1]]
        for n in range(order - 1, 0, -1):
            before = Counter(gram[1:] for gram in occurrences[n])
            after_begin = {g: c for g, c in occurrences[n - 1].items() if g[0] == "<s>" and n > 1}
            self.counts.insert(0, Counter(dict(before) | after_begin))
        self.discounts = [self._of(counts) for counts in self.counts]
        self.probability = lru_cache(None)(self._probability)

    @staticmethod
    def _of(counts: Counter[tuple[str, ...]]) -> tuple[float, ...]:
        n = [sum(c == k for c in counts.values()) for k in range(5)]
        if all(n[1:]):
            y = n[1] / (n[1] + 2 * n[2])
            found = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
            if all(0 < d <= k for k, d in enumerate(found, 1)):
                return 0.0, *found
        return 0.0, 0.5, 1.0, 1.5

    def _probability(self, history: tuple[str, ...], word: str) -> float:
        history = history[-(len(self.counts) - 1) :]
        counts, discount = self.counts[len(history)], self.discounts[len(history)]
        shorter = self.probability(history[1:], word) if history else 1 / len(self.words)
        follow = {g[-1]: c for g, c in counts.items() if g[:-1] == history and g[-1] != "<s>"}
        if not follow:
            return shorter
        total = sum(follow.values())
        left = sum(discount[min(c, 3)] for c in follow.values()) / total
        count = follow.get(word, 0)
        return (count - discount[min(count, 3)]) / total + left * shorter


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("order", [2, 3, 4])
def test_equals_the_formulas(seed: int, order: int) -> None:
    """Every word after every few words, seen or not; with discounts estimated and with the fallback's."""
    rng = np.random.default_rng([seed, order])
    n_sentences = int(rng.integers(1, 120 if seed % 2 else 6))
    sentences = [list(rng.choice(LETTERS, rng.integers(1, 9))) for _ in range(n_sentences)]
    lm, slow = ArrayNgram.of(text_table(sentences, order)), SlowKneserNey(sentences, order)
    assert {*lm.words, "</s>"} == set(slow.words)
    for _ in range(30):
        state, history = lm.start_state(), ("<s>",)
        for word in rng.choice(sorted(lm.words), rng.integers(0, 5)):
            _, state = lm.advance(state, word)
            history = (*history, word)
        found = {word: math.exp(lm.advance(state, word)[0]) for word in slow.words}
        assert sum(found.values()) == pytest.approx(1.0, abs=1e-5)
        assert found == pytest.approx({w: slow.probability(history, w) for w in slow.words}, rel=1e-4)


def test_a_word_of_another_text_has_no_probability() -> None:
    lm = ArrayNgram.of(text_table([["we", "ran"]]))
    assert math.exp(lm.advance(lm.start_state(), "stranger")[0]) < 1e-30


def test_a_text_is_cut_into_sentences_as_they_are_spoken() -> None:
    text = 'Dr Who ran.  "We SAW him!" he said\nCAFÉ: 12 cats?\r\n\n...\nno.stop'
    assert [" ".join(words) for words in sentences_of(text)] == [
        "dr who ran",
        "we saw him",
        "he said",
        "cafe cats",
        "no stop",
    ]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> ArrayNgram:
    path = tmp_path_factory.mktemp("lm") / "a"
    return ArrayNgram.of(read_model(random_arpa(path, np.random.default_rng(4), LETTERS, 3)))


def test_the_mixture_is_the_weighted_sum_word_by_word(first: ArrayNgram) -> None:
    """Words of both, of one, of neither; states kept over words that a model does not know."""
    second = ArrayNgram.of(text_table([["a", "new", "b"], ["new", "york"], ["a", "new", "york", "c"]]))
    mixed, slow = MixedNgram(first, second, 0.4), SlowMixture(first, second, 0.4)
    rng = np.random.default_rng(0)
    for _ in range(200):
        words = list(rng.choice([*LETTERS, "new", "york", "stranger"], rng.integers(0, 8)))
        state, slow_state, total = mixed.start_state(), slow.start_state(), 0.0
        for word in [*words, "</s>"]:
            logp, state = mixed.advance(state, word)
            expected, slow_state = slow.advance(slow_state, word)
            assert logp == pytest.approx(expected, abs=1e-5)
            total += logp
        parts = mixed.parts(" ".join(words))
        assert parts.logp == pytest.approx(total, abs=1e-9)
        assert (parts.n_words, parts.n_unknown) == (len(words), words.count("stranger"))


def test_the_mixture_knows_both_vocabularies(first: ArrayNgram) -> None:
    mixed = MixedNgram(first, ArrayNgram.of(text_table([["a", "york"]])), 0.5)
    assert (mixed.new_words, mixed.sorted_words) == (["york"], sorted([*LETTERS, "york"]))
    assert ("york" in mixed, "a" in mixed, "stranger" in mixed, "<s>" in mixed) == (True, True, False, False)
    assert (mixed.has_prefix("yo"), mixed.has_prefix("x")) == (True, False)
    numbers = [mixed.number(word) for word in (*mixed.sorted_words, "</s>", "stranger")]
    assert len(set(numbers)) == len(numbers)
    for weight in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            MixedNgram(first, first, weight)


def test_the_receipt_says_what_a_text_brought(first: ArrayNgram) -> None:
    lines = [f"a b york {x} {y}" for x in LETTERS for y in LETTERS]
    mixed, receipt = mixed_in(first, ". ".join(lines) + " x" * 46 + "\n" + "z" * 46, 0.3)
    assert (receipt.sentences, receipt.words, receipt.weight) == (len(lines), 5 * len(lines) + 46, 0.3)
    assert (receipt.new_words, receipt.n_new_words) == (("x", "york"), 2)
    alone, after = receipt.held_out.perplexity_alone, receipt.held_out.perplexity_mixed
    assert alone is not None
    assert after is not None
    assert alone > 2 * after
    fit = fit_of(mixed, ["", "a york"])
    assert fit.tokens == 3
    assert fit.mixed_logp == pytest.approx(mixed.score("a york"))
    assert fit.alone_logp == pytest.approx(first.score("a york"))
    assert fit.plus(fit) == Fit(6, 2 * fit.alone_logp, 2 * fit.mixed_logp)


def test_little_is_held_out_of_little_text(first: ArrayNgram) -> None:
    same = "\n".join(["a b york"] * 100)
    _, receipt = mixed_in(first, same, 0.3)
    assert receipt.held_out == Fit()
    assert receipt.held_out.perplexity_alone is None
    many = "\n".join(f"{'q' * (1 + i % 30)} {'w' * (1 + i // 30)}" for i in range(5 * FEWEST_TO_HOLD_OUT))
    many += "\n" + " ".join(f"k{'z' * (i % 20)}{'j' * (i // 20)}" for i in range(2 * MAX_NEW_WORDS))
    _, receipt = mixed_in(first, many, 0.3)
    assert receipt.held_out.tokens
    assert len(receipt.new_words) == MAX_NEW_WORDS < receipt.n_new_words
    with pytest.raises(OptionsError, match="no words"):
        mixed_in(first, "12, 13! " + "z" * 46, 0.3)
