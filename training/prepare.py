"""From corpora on disk to a manifest and its features: asr-train prepare SOURCE… --out data/train

SOURCE is a folder or file of any layout of training/layouts.py: LibriSpeech, LJ Speech, Common Voice, audio
with text files, a JSON-lines manifest, shards (tars beside a manifest, read in place).

Every file is decoded, measured and checked. Bad ones are listed in a table, and all of them with their path
in `left-out.jsonl`; the run goes on and ends with exit code 0 unless nothing is left.
"""

import argparse
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
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
from training.layouts import Rejected, find, find_utterances
from training.manifest import WORDLESS, Utterance, read_bytes, write_manifest
from training.whole_file import write_text

__all__ = ["add_arguments", "find_utterances", "main", "prepare"]

LEFT_OUT_FILE = "left-out.jsonl"
MIN_DURATION_S, MAX_DURATION_S = 0.2, 35.0
TABLE_ROWS = 50  # the terminal shows no more; the file has all

Examined = tuple[str, int, np.ndarray | None]  # (text or reason, samples or 0 when bad, features if wanted)
_Map = Callable[[Sequence[Utterance], FeatureSettings | None], Iterable[Examined]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, nargs="+", help="corpora, joined in this order")
    parser.add_argument("--out", type=Path, required=True, help="folder for manifest.jsonl and features")
    parser.add_argument("--set", default="", help="set name for utterances whose corpus gives none")
    parser.add_argument("--limit", type=int, help="take only this many utterances, spread over the corpus")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--no-features",
        action="store_true",
        help='the manifest only, for runs with `[data] source = "audio"` (features take 58 MB an hour)',
    )


def main(args: argparse.Namespace) -> None:
    everything = [one for source in args.source for one in find(source)]
    found = [one for one in everything if isinstance(one, Utterance)]
    bad = [one for one in everything if isinstance(one, Rejected)]
    if args.limit and args.limit < len(found):
        found = [found[i] for i in np.linspace(0, len(found) - 1, args.limit).astype(int)]
    found = [replace(u, set=u.set or args.set) for u in found]
    kept, also_bad = prepare(
        found, args.out, FeatureSettings(), workers=args.workers, features=not args.no_features
    )
    bad += also_bad
    write_text(
        args.out / LEFT_OUT_FILE, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in bad)
    )
    console = Console()
    if bad:
        console.print(_table(bad, len(kept) + len(bad)))
    hours = sum(u.duration_s for u in kept) / 3600
    console.print(f"{len(kept)} utterances, {hours:.2f} h -> {args.out / 'manifest.jsonl'}")
    if not kept:
        raise SystemExit(f"nothing is left to train on; {args.out / LEFT_OUT_FILE} says why")


def _table(bad: Sequence[Rejected], n_all: int) -> Table:
    table = Table("utterance", "left out because", title=f"{len(bad)} of {n_all} left out")
    for one in bad[:TABLE_ROWS]:
        table.add_row(one.name, one.reason)
    if len(bad) > TABLE_ROWS:
        table.add_row(f"… and {len(bad) - TABLE_ROWS} more", f"see {LEFT_OUT_FILE}")
    return table


def prepare(
    found: Sequence[Utterance],
    out: Path,
    settings: FeatureSettings,
    *,
    workers: int = 2,
    features: bool = True,
) -> tuple[list[Utterance], list[Rejected]]:
    """Write manifest and, unless told not to, features of the good utterances into `out`.

    Returns them, their texts normalised, durations measured and names unique, and those left out. What `out`
    held before stays until the new files are whole. Raises OSError when the disk is full.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept: list[Utterance] = []
    bad: list[Rejected] = []
    names: Counter[str] = Counter()
    writer = FeatureWriter(out, settings) if features else None
    try:
        with _mapping(workers) as mapped, Progress() as progress:
            task = progress.add_task("prepare", total=len(found))
            for utterance, (result, n_samples, log_mels_TF) in zip(
                found, mapped(found, settings if features else None), strict=True
            ):
                progress.advance(task)
                if not n_samples:
                    bad.append(Rejected(utterance.name, str(utterance.audio), result))
                    continue
                names[utterance.name] += 1
                name = utterance.name + (f"~{names[utterance.name]}" if names[utterance.name] > 1 else "")
                duration_s = round(n_samples / SAMPLE_RATE, 3)
                kept.append(replace(utterance, text=result, duration_s=duration_s, name=name))
                if writer is not None and log_mels_TF is not None:
                    writer.append(log_mels_TF)
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    if writer is not None:
        writer.close()
    write_manifest(out / "manifest.jsonl", kept)
    return kept, bad


@contextmanager
def _mapping(workers: int) -> Iterator[_Map]:
    """A function that examines utterances in order, here for one worker, else in so many processes."""
    if workers <= 1:
        yield lambda found, settings: (_examine(u, settings) for u in found)
        return
    context = multiprocessing.get_context(
        "forkserver"
    )  # a fork would take this process' threads' locks along
    context.set_forkserver_preload(["training.prepare"])
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
            yield lambda found, settings: pool.map(_examine, found, [settings] * len(found), chunksize=16)
    except BrokenProcessPool as error:
        raise OSError("a process that examined recordings died, perhaps for want of memory") from error


def _one_thread() -> None:
    torch.set_num_threads(1)


def _examine(utterance: Utterance, settings: FeatureSettings | None) -> Examined:
    """Decode and check one recording; features only with settings."""
    if strange := unspellable(utterance.text):
        return f"transcript has {' '.join(sorted(strange))!r}: spell it as spoken", 0, None
    text = normalise(utterance.text)
    if not text and utterance.corpus != WORDLESS:
        return "empty transcript", 0, None
    try:
        samples = read_audio(read_bytes(utterance), max_duration_s=MAX_DURATION_S)
    except (AsrError, OSError) as error:
        return str(error), 0, None
    if len(samples) < MIN_DURATION_S * SAMPLE_RATE:
        return f"only {len(samples) / SAMPLE_RATE:.2f} s long", 0, None
    if not np.any(samples):
        return "digital silence", 0, None
    if settings is None:
        return text, len(samples), None
    return text, len(samples), raw_log_mel(samples, settings).numpy().astype(np.float16)
