"""From a corpus on disk to a manifest and its features: asr-train prepare SOURCE --out data/train

SOURCE is recognised by its layout:
  shards       a `manifest.jsonl` beside tars; each line has `audio` (path inside the tars) and `text`
  librispeech  `<speaker>/<chapter>/*.flac` with `<speaker>-<chapter>.trans.txt`
  folder       audio files, each with a text file of the same stem beside it or in a sibling folder

Every file is decoded, measured and checked. Bad ones are listed in a table and left out; the run goes on
and ends with exit code 0 unless nothing is left.
"""

import argparse
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from asr.audio import SAMPLE_RATE, read_audio
from asr.errors import AsrError
from asr.features import FeatureSettings, raw_log_mel
from asr.text import normalise, unspellable
from training.features_store import FeatureWriter
from training.manifest import Utterance, read_bytes, write_manifest

AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm"}
MIN_DURATION_S, MAX_DURATION_S = 0.2, 35.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, nargs="+", help="corpus folders, joined in this order")
    parser.add_argument("--out", type=Path, required=True, help="folder for manifest.jsonl and features")
    parser.add_argument("--set", default="", help="set name for utterances whose corpus gives none")
    parser.add_argument("--limit", type=int, help="take only this many utterances, spread over the corpus")
    parser.add_argument("--workers", type=int, default=2, help="processes")


def main(args: argparse.Namespace) -> None:
    found = [u for source in args.source for u in find_utterances(source)]
    if args.limit and args.limit < len(found):
        found = [found[i] for i in np.linspace(0, len(found) - 1, args.limit).astype(int)]
    found = [replace(u, set=u.set or args.set) for u in found]
    kept, bad = prepare(found, args.out, FeatureSettings(), workers=args.workers)
    console = Console()
    if bad:
        table = Table("utterance", "left out because", title=f"{len(bad)} of {len(found)} left out")
        for name, reason in bad:
            table.add_row(name, reason)
        console.print(table)
    hours = sum(u.duration_s for u in kept) / 3600
    console.print(f"{len(kept)} utterances, {hours:.2f} h -> {args.out / 'manifest.jsonl'}")
    if not kept:
        raise SystemExit("nothing is left to train on")


def prepare(
    found: list[Utterance], out: Path, settings: FeatureSettings, *, workers: int = 2
) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Write manifest and features of the good utterances into `out`.

    Returns them, their texts normalised and durations measured, and (name, reason) of those left out.
    """
    out.mkdir(parents=True, exist_ok=True)
    writer = FeatureWriter(out, settings)
    kept: list[Utterance] = []
    bad: list[tuple[str, str]] = []
    with ProcessPoolExecutor(workers, initializer=_one_thread) as pool, Progress() as progress:
        task = progress.add_task("prepare", total=len(found))
        jobs = pool.map(_examine, found, [settings] * len(found), chunksize=16)
        for utterance, (result, n_samples, log_mels_TF) in zip(found, jobs, strict=True):
            progress.advance(task)
            if log_mels_TF is None:
                bad.append((utterance.name, result))
                continue
            kept.append(replace(utterance, text=result, duration_s=round(n_samples / SAMPLE_RATE, 3)))
            writer.append(log_mels_TF)
    writer.close()
    write_manifest(out / "manifest.jsonl", kept)
    return kept, bad


def _one_thread() -> None:
    torch.set_num_threads(1)


def _examine(utterance: Utterance, settings: FeatureSettings) -> tuple[str, int, np.ndarray | None]:
    """(normalised text, samples, features), or (reason, 0, None)."""
    if strange := unspellable(utterance.text):
        return f"transcript has {' '.join(sorted(strange))!r}: spell it as spoken", 0, None
    text = normalise(utterance.text)
    if not text:
        return "empty transcript", 0, None
    try:
        samples = read_audio(read_bytes(utterance), max_duration_s=MAX_DURATION_S)
    except (AsrError, OSError) as error:
        return str(error), 0, None
    if len(samples) < MIN_DURATION_S * SAMPLE_RATE:
        return f"only {len(samples) / SAMPLE_RATE:.2f} s long", 0, None
    if not np.any(samples):
        return "digital silence", 0, None
    return text, len(samples), raw_log_mel(samples, settings).numpy().astype(np.float16)


def find_utterances(source: Path) -> list[Utterance]:
    """All labelled recordings below a folder, in a fixed order.

    Raises SystemExit when the layout is not known.
    """
    if not source.is_dir():
        raise SystemExit(f"{source} is not a folder")
    if (source / "manifest.jsonl").is_file():
        return list(_from_shards(source))
    if next(source.rglob("*.trans.txt"), None):
        return list(_from_librispeech(source))
    utterances = list(_from_folder(source))
    if not utterances:
        raise SystemExit(
            f"{source}: no manifest.jsonl, no *.trans.txt, and no audio file with a text file of its stem"
        )
    return utterances


def _from_shards(source: Path) -> Iterator[Utterance]:
    members: dict[str, tuple[Path, int, int]] = {}
    for shard in sorted(source.glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.isfile():
                    members[member.name] = (shard, member.offset_data, member.size)
    for line in (source / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        audio, offset, size = members.get(row["audio"], (source / row["audio"], 0, -1))
        yield Utterance(
            audio=audio.resolve(),
            offset=offset,
            size=size,
            text=row["text"],
            duration_s=float(row.get("duration", 0.0)),
            speaker=row.get("speaker", ""),
            corpus=row.get("corpus", source.name),
            set=row.get("set", ""),
            name=Path(row["audio"]).stem,
        )


def _from_librispeech(source: Path) -> Iterator[Utterance]:
    for transcripts in sorted(source.rglob("*.trans.txt")):
        for line in transcripts.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            yield Utterance(
                audio=(transcripts.parent / f"{name}.flac").resolve(),
                text=text,
                duration_s=0.0,
                speaker=name.split("-")[0],
                corpus="librispeech",
                name=name,
            )


def _from_folder(source: Path) -> Iterator[Utterance]:
    texts = {path.stem: path for path in sorted(source.rglob("*.txt"))}
    for audio in sorted(p for p in source.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES):
        if audio.stem in texts:
            text = texts[audio.stem].read_text(encoding="utf-8")
            yield Utterance(
                audio=audio.resolve(), text=text, duration_s=0.0, corpus=source.name, name=audio.stem
            )
