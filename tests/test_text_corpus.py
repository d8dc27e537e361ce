"""Streaming text, and which side of the held-out split a sentence falls on."""

import gzip
import json
import lzma
import random
from pathlib import Path

import pytest

from training.text_corpus import (
    MAX_LINE_CHARS,
    is_held_out,
    read_corpus,
    read_sentences,
    transcripts_by_set,
)

TEXT = "Don\u2019t shout!\n\n— 42 —\nThe CAFÉ is shut.\r\nlast line"
SENTENCES = ["don't shout", "the cafe is shut", "last line"]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.jsonl"
    rows = [("one two", "cv"), ("three", "libri"), ("four", "cv"), ("", "cv")]
    row = {"audio": "a.wav", "duration": 1.0}
    path.write_text("".join(json.dumps(row | {"text": text, "set": name}) + "\n" for text, name in rows))
    return path


def test_plain_gzip_and_xz_files_give_the_same_normalised_sentences(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": TEXT.encode(),
        "a.gz": gzip.compress(TEXT.encode()),
        "a.txt.xz": lzma.compress(TEXT.encode()),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert list(read_sentences(tmp_path / name)) == SENTENCES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"words", "ends in"),
        ("a.txt", b"fine\n\xff\xfe\n", "after line"),
        ("a.gz", b"not gzip", "Not a gzip"),
        ("a.gz", gzip.compress(TEXT.encode())[:-12], "after line"),
        ("a.xz", b"not xz", "after line 0"),
        ("a.xz", lzma.compress(TEXT.encode())[:-12], "after line"),
        ("a.txt", b"x" * (MAX_LINE_CHARS + 1), "one sentence a line"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        list(read_sentences(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)


def test_sentences_are_streamed_and_not_read_ahead_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.xz"
    words = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000)
    lines = "\n".join("".join(words[i : i + 50]) for i in range(0, len(words), 50))
    path.write_bytes(b"".join([lzma.compress(b"first\n"), lzma.compress(lines.encode())[:-100]]))
    sentences = read_sentences(path)
    assert next(sentences) == "first"
    with pytest.raises(ValueError, match="after line"):
        list(sentences)


def test_an_absent_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_sentences(tmp_path / "none.txt"))


def test_a_corpus_is_the_texts_and_then_the_transcripts_repeated(tmp_path: Path, manifest: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    corpus = list(read_corpus([tmp_path / "a.txt"], [manifest], manifest_repeat=2))
    assert corpus == SENTENCES + ["one two", "three", "four"] * 2


def test_transcripts_are_kept_apart_per_set(manifest: Path) -> None:
    assert transcripts_by_set([manifest]) == {"cv": ["one two", "four"], "libri": ["three"]}


def test_the_held_out_part_has_about_the_share_asked_for_and_never_changes() -> None:
    sentences = [f"sentence number {i}" for i in range(20_000)]
    held_out = [s for s in sentences if is_held_out(s, 100)]
    assert 150 < len(held_out) < 250  # 1 % of 20,000
    assert held_out[:3] == ["sentence number 43", "sentence number 82", "sentence number 132"]
    assert not any(is_held_out(s, 0) for s in sentences)
    assert all(is_held_out(s, 10_000) for s in sentences)
