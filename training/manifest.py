"""Manifests: one JSON line an utterance, pointing at a whole audio file or at a member inside a tar.

A prepared manifest (`asr-train prepare`) holds `audio` (path, absolute or relative to the manifest),
`offset` and `size` (bytes, for a member of an uncompressed tar), `text` (normalised), `duration` (s),
`speaker`, `corpus`, `set`, and where known `accent` and `age`.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WORDLESS = "wordless"  # the corpus whose transcripts are empty because nobody speaks (training/wordless.py)


@dataclass(frozen=True)
class Utterance:
    """One labelled recording."""

    audio: Path  # the audio file, or the tar that holds it
    text: str  # normalised transcript
    duration_s: float
    speaker: str = ""
    corpus: str = ""
    set: str = ""  # results are reported per set; empty: the corpus
    offset: int = 0  # bytes from the file's start
    size: int = -1  # bytes; -1: the whole file
    name: str = ""  # unique within a manifest: what results call it
    accent: str = ""  # of the speaker, in the corpus' own words; empty: not known
    age: str = ""  # of the speaker: years, or the corpus' own words ("child", "twenties"); empty: not known


def read_bytes(utterance: Utterance) -> bytes:
    """The recording's encoded bytes.

    Raises OSError when the file is missing or shorter than the manifest says.
    """
    return read_range(utterance.audio, utterance.offset, utterance.size, utterance.name)


def read_range(path: Path, offset: int, size: int, name: str) -> bytes:
    """`size` bytes of a file from `offset` on, all of them where size is -1; `name` is for the error.

    Raises OSError when the file is missing or ends before.
    """
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if size >= 0 and len(content) != size:
        raise OSError(f"{path} ends before {name} does")
    return content


def read_manifest(path: Path) -> list[Utterance]:
    """Utterances of a prepared manifest. Raises ValueError naming the line that is malformed."""
    utterances = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            audio = Path(row["audio"])
            utterances.append(
                Utterance(
                    audio=audio if audio.is_absolute() else path.parent / audio,
                    text=row["text"],
                    duration_s=float(row["duration"]),
                    speaker=row.get("speaker", ""),
                    corpus=row.get("corpus", ""),
                    set=row.get("set", "") or row.get("corpus", ""),
                    offset=row.get("offset", 0),
                    size=row.get("size", -1),
                    name=row.get("name", "") or audio.stem,
                    accent=row.get("accent", ""),
                    age=str(row.get("age", "")),
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error!r}") from error
    return utterances


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a prepared manifest, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for u in utterances:
            audio = (
                os.path.relpath(u.audio, path.parent) if u.audio.is_relative_to(path.parent) else str(u.audio)
            )
            row = {
                "audio": audio,
                "offset": u.offset,
                "size": u.size,
                "text": u.text,
                "duration": u.duration_s,
            }
            row |= {"speaker": u.speaker, "corpus": u.corpus, "set": u.set, "name": u.name}
            row |= {key: value for key, value in (("accent", u.accent), ("age", u.age)) if value}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    temporary.replace(path)
