"""The corpora that `asr-train prepare` reads, told apart by how they lie on disk.

manifest      a `.jsonl` file, or a folder with `manifest.jsonl`: one JSON object a line with `audio` (or
              `audio_filepath`: a path relative to the manifest, or a member's name in the tars beside it)
              and `text`; `speaker`, `corpus`, `set`, `name` where known, `offset` and `size` in bytes where
              the recording is part of a file
librispeech   `<speaker>/<chapter>/*.flac` with `<speaker>-<chapter>.trans.txt`
ljspeech      `metadata.csv` (id|raw|normalised) and `wavs/<id>.wav`
common voice  `clips/` and `train.tsv` or `validated.tsv` (columns `path`, `sentence`, `client_id`); also one
              of its .tsv files by name
folder        audio files, each with a `.txt` of its stem beside it or in a sibling folder (`audio/a.wav` and
              `transcriptions/a.txt`)
"""

import csv
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.manifest import Utterance

AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm"}
UNKNOWN = (
    "{}: no manifest.jsonl, no *.trans.txt, no metadata.csv with wavs/, no clips/ with a .tsv, "
    "and no audio file with a text file of its stem"
)


@dataclass(frozen=True)
class Rejected:
    """A recording that was left out."""

    name: str
    audio: str  # path as far as known
    reason: str


Found = Utterance | Rejected


def find(source: Path) -> list[Found]:
    """All labelled recordings of a corpus in a fixed order, and what of it cannot be used.

    Raises SystemExit when there is no such corpus or its layout is not known, ValueError when a tar or table
    of it is damaged.
    """
    if source.suffix == ".jsonl" and source.is_file():
        return list(_from_manifest(source))
    if source.suffix == ".tsv" and source.is_file():
        return list(_from_common_voice(source, without=set()))
    if not source.is_dir():
        raise SystemExit(f"{source} is not a folder, a .jsonl manifest or a .tsv of Common Voice")
    if (source / "manifest.jsonl").is_file():
        return list(_from_manifest(source / "manifest.jsonl"))
    if (source / "metadata.csv").is_file() and (source / "wavs").is_dir():
        return list(_from_ljspeech(source))
    if (source / "clips").is_dir() and next(source.glob("*.tsv"), None):
        return list(_from_common_voice_folder(source))
    if next(source.rglob("*.trans.txt"), None):
        return list(_from_librispeech(source))
    found = list(_from_folder(source))
    if not any(isinstance(one, Utterance) for one in found):
        raise SystemExit(UNKNOWN.format(source))
    return found


def find_utterances(source: Path) -> list[Utterance]:
    """The usable part of `find`. Raises what it raises."""
    return [one for one in find(source) if isinstance(one, Utterance)]


def _from_manifest(manifest: Path) -> Iterator[Found]:
    source = manifest.parent
    members = _tar_members(source)
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{manifest.name}, line {number}"
        try:
            row = json.loads(line)
            named, text = row.get("audio") or row["audio_filepath"], row["text"]
            tar, offset, size = members.get(
                named, (source / named, row.get("offset", 0), row.get("size", -1))
            )
            if not isinstance(offset, int) or not isinstance(size, int) or not isinstance(text, str):
                raise TypeError("`offset` and `size` are bytes, `text` a string")
            if offset and size < 0:
                raise TypeError(
                    "`offset` without `size`: both are bytes; a segment in seconds must be cut out"
                )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield Rejected(where, "", f"malformed line: {error!r}")
            continue
        yield Utterance(
            audio=tar.resolve(),
            offset=offset,
            size=size,
            text=text,
            duration_s=0.0,
            speaker=str(row.get("speaker", "")),
            corpus=str(row.get("corpus", "") or source.name),
            set=str(row.get("set", "")),
            name=str(row.get("name", "") or Path(named).stem),
        )


def _tar_members(folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Where each member of the folder's uncompressed tars lies: (tar, offset, bytes)."""
    members: dict[str, tuple[Path, int, int]] = {}
    for shard in sorted(folder.glob("*.tar")):
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    if member.isfile():
                        members[member.name] = (shard, member.offset_data, member.size)
        except tarfile.TarError as error:
            if not any(path == shard for path, _, _ in members.values()):
                raise ValueError(f"{shard} is no uncompressed tar: {error}") from error
            # cut short: its whole members are used, the others are reported one by one as missing
    return members


def _from_librispeech(source: Path) -> Iterator[Found]:
    for transcripts in sorted(source.rglob("*.trans.txt")):
        named = set()
        for line in transcripts.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            named.add(name)
            yield Utterance(
                audio=(transcripts.parent / f"{name}.flac").resolve(),
                text=text,
                duration_s=0.0,
                speaker=name.split("-")[0],
                corpus="librispeech",
                name=name,
            )
        for audio in sorted(transcripts.parent.glob("*.flac")):
            if audio.stem not in named:
                yield Rejected(audio.stem, str(audio), f"no line in {transcripts.name}")


def _from_ljspeech(source: Path) -> Iterator[Found]:
    """The normalised text, which spells numbers out, where there is one."""
    for number, line in enumerate((source / "metadata.csv").read_text(encoding="utf-8").splitlines(), 1):
        columns = line.split("|")
        if len(columns) < 2:
            yield Rejected(f"metadata.csv, line {number}", "", "not id|raw text|normalised text")
            continue
        text = columns[2] if len(columns) > 2 and columns[2].strip() else columns[1]
        audio = (source / "wavs" / f"{columns[0]}.wav").resolve()
        yield Utterance(
            audio=audio, text=text, duration_s=0.0, speaker="ljspeech", corpus="ljspeech", name=columns[0]
        )


def _from_common_voice_folder(source: Path) -> Iterator[Found]:
    """`train.tsv`; without one, what of `validated.tsv` no dev or test speaker said."""
    if (source / "train.tsv").is_file():
        return _from_common_voice(source / "train.tsv", without=set())
    if not (source / "validated.tsv").is_file():
        raise SystemExit(f"{source} has neither train.tsv nor validated.tsv: name one of its .tsv files")
    held_back = {
        row.get("client_id") or ""
        for part in ("dev.tsv", "test.tsv")
        if (source / part).is_file()
        for _, row in _table(source / part)
    }
    return _from_common_voice(source / "validated.tsv", without=held_back - {""})


def _from_common_voice(table: Path, without: set[str]) -> Iterator[Found]:
    for number, row in _table(table):
        clip, text, speaker = row.get("path") or "", row.get("sentence") or "", row.get("client_id") or ""
        if not clip:
            yield Rejected(f"{table.name}, line {number}", "", "no `path`")
        elif speaker not in without:
            name = clip if Path(clip).suffix else f"{clip}.mp3"  # the first releases left it out
            yield Utterance(
                audio=(table.parent / "clips" / name).resolve(),
                text=text,
                duration_s=0.0,
                speaker=speaker[:16],  # of 128 hexadecimal digits
                corpus="commonvoice",
                set=table.stem,
                name=Path(clip).stem,
            )


def _table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a tab-separated file; quotes are letters, as Common Voice writes them."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"path", "sentence"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} lacks the columns `path` and `sentence`")
        yield from ((rows.line_num, row) for row in rows)


def _from_folder(source: Path) -> Iterator[Found]:
    """A text beside its recording comes first, then one in the same place of a sibling folder, then any."""
    texts: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(source.rglob("*.txt")):
        texts[path.stem].append(path)
    recordings = sorted(p for p in source.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    stems = Counter(audio.stem for audio in recordings)
    for audio in recordings:
        inside = audio.relative_to(source).with_suffix("")
        name = audio.stem if stems[audio.stem] == 1 else inside.as_posix()
        chosen = _text_of(audio, inside, texts.get(audio.stem, []), source)
        if isinstance(chosen, str):
            yield Rejected(name, str(audio), chosen)
            continue
        try:
            text = chosen.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            yield Rejected(name, str(audio), f"{chosen.name} is not UTF-8")
            continue
        yield Utterance(audio=audio.resolve(), text=text, duration_s=0.0, corpus=source.name, name=name)


def _text_of(audio: Path, inside: Path, candidates: list[Path], source: Path) -> Path | str:
    """The transcript's file among those of the recording's stem, or why there is none."""
    if not candidates:
        return f"no {audio.stem}.txt"
    for fits in (
        [path for path in candidates if path.parent == audio.parent],
        [
            path
            for path in candidates
            if path.relative_to(source).with_suffix("").parts[1:] == inside.parts[1:]
        ],
        candidates,
    ):
        if len(fits) == 1:
            return fits[0]
    return f"{len(candidates)} files are called {audio.stem}.txt"
