"""Fetch public corpora and language models: asr-train download train-clean-5 dev-clean-2 --to corpora

Downloads are resumed where they were cut, also by a later call; mirrors are tried in turn; size and checksum
are checked. Archives are unpacked (`corpora/LibriSpeech/train-clean-5`) and then removed; language models are
lower-cased, as transcripts are here. What is there already is not fetched again.
"""

import argparse
import shutil
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from training.catalogue import CATALOGUE, GROUPS, Resource
from training.fetch import USUAL, DownloadError, Patience, fetch
from training.unpack import lower_arpa, unpack

SPARE = 64 << 20  # bytes that stay free on the disk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="+",
        choices=[*CATALOGUE, *GROUPS],
        help=", ".join([*CATALOGUE, *(f"{group} (all of its parts)" for group in GROUPS)]),
        metavar="NAME",
    )
    parser.add_argument("--to", type=Path, required=True, help="folder; LibriSpeech's parts share one in it")
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="URL",
        help="address of a folder with the files, asked before the public ones; may be repeated",
    )
    parser.add_argument("--keep-archives", action="store_true", help="do not remove what was unpacked")


def main(args: argparse.Namespace) -> None:
    names = [part for name in args.name for part in GROUPS.get(name, (name,))]
    console, mirrors = Console(), tuple(args.mirror)
    for name in dict.fromkeys(names):
        made = download(CATALOGUE[name], args.to, mirrors=mirrors, keep=args.keep_archives, console=console)
        console.print(f"{name} -> {made}")


def download(
    resource: Resource,
    folder: Path,
    *,
    mirrors: tuple[str, ...] = (),
    keep: bool = False,
    patience: Patience = USUAL,
    console: Console | None = None,
) -> Path:
    """Bring one resource into `folder`; the path of what it became.

    Raises DownloadError when no mirror gives it, or the disk has too little room for it, and ValueError when
    the archive's content is not what it should be.
    """
    console = console or Console(quiet=True)
    made, archive = folder / resource.makes, folder / resource.file
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(resource, folder)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(resource.file, total=resource.expected.size or None)
        fetch(
            resource.urls(mirrors),
            archive,
            resource.expected,
            patience=patience,
            report=lambda done, total: progress.update(task, completed=done, total=total or None),
            warn=console.print,
        )
    if resource.kind == "text":
        return archive
    console.print(f"unpacking {archive.name}")
    if resource.kind == "tar":
        unpack(archive, folder, resource.makes)
    else:
        lower_arpa(archive, made)
    if not keep:
        archive.unlink()
    return made


def _check_room(resource: Resource, folder: Path) -> None:
    """Raises DownloadError when download and result would not fit on the disk together."""
    parts = (folder / resource.file, folder / f"{resource.file}.part")
    there = sum(path.stat().st_size for path in parts if path.exists())
    size = resource.expected.size
    needed = max(0, size - there) + int(size * resource.growth) + (SPARE if size else 0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"{resource.file} needs {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free"
        )
