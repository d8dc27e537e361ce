"""The n-gram wrapper, against probabilities worked out by hand from the ARPA text."""

import math
from pathlib import Path

import pytest

from asr.decoding.ngram import NgramLM, NgramParts
from asr.errors import MismatchError, MissingFileError
from tests.tiny_lm import FRUIT, make_lm, write_arpa

LN_10 = math.log(10)


@pytest.fixture
def lm(tmp_path: Path) -> NgramLM:
    return make_lm(tmp_path)


def test_score_is_the_natural_log_of_text_and_end(lm: NgramLM) -> None:
    # <s> an: -0.2; an apple: -0.3; apple has no backoff, </s>: -0.7
    assert lm.score("an apple") == pytest.approx(-1.2 * LN_10, abs=1e-5)
    # <s> backs off -0.4, pear -1.2, </s> -0.7
    assert lm.score("pear") == pytest.approx(-2.3 * LN_10, abs=1e-5)
    # <s> backs off -0.4, </s> -0.7
    assert lm.score("") == pytest.approx(-1.1 * LN_10, abs=1e-5)


def test_parts_count_words_and_unknown_words(lm: NgramLM) -> None:
    # <s> an: -0.2; an backs off -0.5, <unk> -3; </s> -0.7
    logp = pytest.approx(-4.4 * LN_10, abs=1e-5)
    parts = lm.parts("an xylophone")
    assert parts == NgramParts(parts.logp, n_words=2, n_unknown=1)
    assert parts.logp == logp


def test_words_advance_to_the_same_score_as_the_whole_text(lm: NgramLM) -> None:
    state, total = lm.start_state(), 0.0
    for word in ("an", "xylophone", "new", "york", "</s>"):
        logp, state = lm.advance(state, word)
        total += logp
    assert total == pytest.approx(lm.score("an xylophone new york"), abs=1e-9)


def test_vocabulary_is_the_word_list(lm: NgramLM) -> None:
    assert all(word in lm for word in FRUIT)
    assert "york" in lm  # its 1-gram has no backoff column: pyctcdecode's ARPA reader would drop it
    assert "xylophone" not in lm
    assert "<unk>" not in lm
    assert "<s>" not in lm


@pytest.mark.parametrize(
    ("prefix", "known"),
    [("", True), ("a", True), ("app", True), ("apple", True), ("apples", False), ("z", False)],
)
def test_prefixes_of_the_vocabulary(lm: NgramLM, prefix: str, known: bool) -> None:
    assert lm.has_prefix(prefix) is known


def test_perplexity_counts_the_end_of_each_text(lm: NgramLM) -> None:
    texts = ["an apple", "pear"]
    assert lm.perplexity(texts) == pytest.approx(10 ** ((1.2 + 2.3) / 5), rel=1e-5)
    with pytest.raises(ValueError, match="at least one text"):
        lm.perplexity([])


def test_missing_files_are_named(tmp_path: Path) -> None:
    make_lm(tmp_path)
    with pytest.raises(MissingFileError, match=r"ngram\.bin"):
        NgramLM.load(tmp_path / "ngram.bin", tmp_path / "unigrams.txt")
    with pytest.raises(MissingFileError, match=r"words\.txt"):
        NgramLM.load(tmp_path / "ngram.arpa", tmp_path / "words.txt")


def test_files_that_are_no_model_or_another_models_words_are_refused(tmp_path: Path) -> None:
    make_lm(tmp_path)
    junk = tmp_path / "junk.bin"
    junk.write_bytes(b"not a language model")
    with pytest.raises(MismatchError, match=r"junk\.bin"):
        NgramLM.load(junk, tmp_path / "unigrams.txt")
    for words, message in [("", "empty"), ("an\nxylophone\n", "xylophone"), ("an\n<s>\n", "<s>")]:
        (tmp_path / "other.txt").write_text(words)
        with pytest.raises(MismatchError, match=message):
            NgramLM.load(tmp_path / "ngram.arpa", tmp_path / "other.txt")


def test_loading_an_arpa_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    NgramLM.load(
        write_arpa(tmp_path / "quiet.arpa", {"an": -1.0}, {("<s>", "an"): -0.5}), _words(tmp_path, "an")
    )
    assert capfd.readouterr() == ("", "")


def _words(folder: Path, *words: str) -> Path:
    path = folder / "words.txt"
    path.write_text("\n".join(words))
    return path
