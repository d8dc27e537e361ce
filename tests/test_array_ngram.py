"""The n-gram in arrays is held to KenLM's module on random models and texts."""

import math
from pathlib import Path

import kenlm
import numpy as np
import pytest

from asr.decoding.arpa import read_model
from asr.decoding.array_ngram import ArrayNgram
from asr.decoding.ngram_file import encoded
from asr.errors import MismatchError, MissingFileError
from tests.tiny_lm import FRUIT, FRUIT_PAIRS, random_arpa, write_arpa

N_SENTENCES = 10_000
LN_10 = math.log(10)


def _sentences(rng: np.random.Generator, words: list[str], n: int) -> list[str]:
    """Of 0-12 words, among them words that no model knows."""
    drawn = [*words, "unheard", "zzz"]
    return [" ".join(rng.choice(drawn, size=rng.integers(0, 13))) for _ in range(n)]


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_log10_scores_are_kenlms(order: int, tmp_path: Path) -> None:
    """Back-off, unknown words and sentence ends included; 10,000 sentences over KenLM's orders."""
    rng = np.random.default_rng(order)
    words = [f"w{i}" for i in range(12)]
    arpa = random_arpa(tmp_path / "lm.arpa", rng, words, order)
    ours = ArrayNgram.of(read_model(arpa))
    theirs = kenlm.Model(str(arpa)) if order > 1 else None  # KenLM reads no unigram models
    for sentence in _sentences(rng, words, -(-N_SENTENCES // 3)):
        if theirs is None:
            expected = sum(_unigram(arpa, w) for w in [*sentence.split(), "</s>"])
        else:
            expected = sum(logp for logp, _, _ in theirs.full_scores(sentence))
        assert ours.score(sentence) / LN_10 == pytest.approx(expected, abs=1e-4)


def _unigram(arpa: Path, word: str) -> float:
    rows = [line.split() for line in arpa.read_text().splitlines()]
    logps = {row[1]: float(row[0]) for row in rows if len(row) >= 2 and row[0] != "ngram"}
    return logps.get(word, logps["<unk>"])


def test_states_advance_to_the_score_of_the_text(tmp_path: Path) -> None:
    lm = ArrayNgram.of(read_model(random_arpa(tmp_path / "a", np.random.default_rng(0), list("abcd"), 3)))
    state, total = lm.start_state(), 0.0
    for word in ("a", "stranger", "b", "c", "d", "</s>"):
        logp, state = lm.advance(state, word)
        total += logp
    assert total == pytest.approx(lm.score("a stranger b c d"), abs=1e-9)


def test_a_file_is_mapped_and_says_what_the_table_said(tmp_path: Path) -> None:
    arpa = random_arpa(tmp_path / "a", np.random.default_rng(1), list("abcdefgh"), 4)
    direct = ArrayNgram.of(read_model(arpa))
    (tmp_path / "ngram.arrays").write_bytes(encoded(read_model(arpa)))
    (tmp_path / "words").write_text("a b c d e f g h")
    loaded = ArrayNgram.load(tmp_path / "ngram.arrays", tmp_path / "words")
    base = loaded.arrays.data.base
    assert isinstance(base, np.memmap)
    assert not loaded.arrays.data.flags.writeable
    for text in _sentences(np.random.default_rng(2), list("abcdefgh"), 100):
        assert loaded.parts(text) == direct.parts(text)


@pytest.mark.parametrize(("bits", "tolerance"), [(16, 1e-6), (8, 0.1), (4, 1.0)])
def test_codes_of_few_bits_are_near(bits: int, tolerance: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    words = [f"w{i}" for i in range(40)]
    table = read_model(random_arpa(tmp_path / "a", rng, words, 3, share=0.5))
    (tmp_path / "q").write_bytes(encoded(table, bits))
    (tmp_path / "words").write_text(" ".join(words))
    quantised, exact = ArrayNgram.load(tmp_path / "q", tmp_path / "words"), ArrayNgram.of(table)
    off = [
        abs(quantised.score(t) - exact.score(t)) / (len(t.split()) + 1) for t in _sentences(rng, words, 50)
    ]
    assert np.mean(off) < tolerance
    assert (tmp_path / "q").stat().st_size < len(encoded(table)) or bits == 16


def test_words_left_out_of_the_list_are_unknown(tmp_path: Path) -> None:
    table = read_model(write_arpa(tmp_path / "a", FRUIT, FRUIT_PAIRS))
    whole, short = ArrayNgram.of(table), ArrayNgram.of(table, ["an", "apple"])
    assert ("pear" in whole, "pear" in short) == (True, False)
    assert short.parts("pear").n_unknown == 1
    assert short.score("pear") == whole.score("stranger")
    assert (whole.has_prefix("pea"), short.has_prefix("pea")) == (True, False)
    assert not {"<unk>", "<s>", "</s>"} & whole.words


def test_absent_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    content = encoded(read_model(write_arpa(tmp_path / "a", FRUIT, FRUIT_PAIRS)))
    arrays, words = tmp_path / "ngram.arrays", tmp_path / "words.txt"
    words.write_text("an\n")
    with pytest.raises(MissingFileError, match=r"ngram\.arrays"):
        ArrayNgram.load(arrays, words)
    for damaged in (b"", b"mmap lm http", content[:-1], content[:40]):
        arrays.write_bytes(damaged)
        with pytest.raises(MismatchError, match=r"ngram\.arrays"):
            ArrayNgram.load(arrays, words)
    arrays.write_bytes(content)
    for listed, message in [("", "empty"), ("an\nxylophone\n", "xylophone"), ("an\n<s>\n", "<s>")]:
        words.write_text(listed)
        with pytest.raises(MismatchError, match=message):
            ArrayNgram.load(arrays, words)


def test_an_arpa_without_marks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.arpa"
    path.write_text("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tcat\n\n\\end\\\n")
    with pytest.raises(ValueError, match="</s>, no <s>, no <unk>"):
        read_model(path)
