"""Text for language models: files of one sentence a line, streamed through `asr.text.normalise`.

Plain, gzip and xz files are read line by line, so a corpus may be larger than memory.
"""

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from asr.text import normalise
from training.manifest import read_manifest

MAX_LINE_CHARS = (
    1_000_000  # what one line may cost in memory; a file without line breaks is refused, not swallowed
)

_OPENERS: dict[str, Callable[..., TextIO]] = {".gz": gzip.open, ".xz": lzma.open, ".txt": open}


def read_sentences(path: Path) -> Iterator[str]:
    """The normalised sentences of one `.txt`, `.gz` or `.xz` file, in order; lines without a letter left out.

    Raises ValueError for another suffix, for bytes that are not UTF-8 or not what the suffix says, and for a
    line of over MAX_LINE_CHARS characters; OSError when the file cannot be opened.
    """
    opener = _OPENERS.get(path.suffix)
    if opener is None:
        raise ValueError(f"{path}: a text file ends in {', '.join(sorted(_OPENERS))}")
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            while line := file.readline(MAX_LINE_CHARS + 1):
                number += 1
                if len(line) > MAX_LINE_CHARS:
                    raise ValueError(
                        f"more than {MAX_LINE_CHARS} characters; one sentence a line is expected"
                    )
                if sentence := normalise(line):
                    yield sentence
    except (ValueError, EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: {error}") from error


def read_corpus(
    texts: Sequence[Path], manifests: Sequence[Path] = (), *, manifest_repeat: int = 1
) -> Iterator[str]:
    """The sentences of the text files, then those of the manifests' transcripts `manifest_repeat` times over.

    Raises what `read_sentences` and `read_manifest` raise.
    """
    for path in texts:
        yield from read_sentences(path)
    for _ in range(manifest_repeat):
        yield from read_transcripts(manifests)


def read_transcripts(manifests: Iterable[Path]) -> Iterator[str]:
    """The normalised transcripts of prepared manifests, empty ones left out."""
    for path in manifests:
        for utterance in read_manifest(path):
            if sentence := normalise(utterance.text):
                yield sentence


def transcripts_by_set(manifests: Iterable[Path]) -> dict[str, list[str]]:
    """The normalised transcripts of prepared manifests, per set: results are never pooled over sets."""
    sets: dict[str, list[str]] = {}
    for path in manifests:
        for utterance in read_manifest(path):
            if sentence := normalise(utterance.text):
                sets.setdefault(utterance.set or path.stem, []).append(sentence)
    return sets


def is_held_out(sentence: str, per_10k: int) -> bool:
    """Whether this sentence belongs to the held-out part, which is `per_10k` of 10,000 distinct sentences.

    Depends on nothing but the sentence: equal ones fall on the same side, whatever the file, order or run.
    """
    return zlib.crc32(sentence.encode()) % 10_000 < per_10k
