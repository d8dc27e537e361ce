"""Processes that each hold a bundle's Transcriber: beam search is pure Python, so threads would not help."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Generic, TypeVar

import torch

from asr.transcriber import Device, Transcriber

Item = TypeVar("Item")
Result = TypeVar("Result")

_loaded: Transcriber | None = None  # this worker process's own


class Workers:
    """Calls functions of (transcriber, item), here or in several processes; results in the items' order."""

    def __init__(self, transcriber: Transcriber, pool: Pool | None) -> None:
        self.transcriber = transcriber
        self._pool = pool

    def map(self, function: Callable[[Transcriber, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """`function` must be a module's own, so that it can be sent to another process."""
        if self._pool is None:
            return (function(self.transcriber, item) for item in items)
        return self._pool.imap(_Call(function), items)


@contextmanager
def workers(bundle_dir: Path, count: int, device: Device) -> Iterator[Workers]:
    """`count` processes of one torch thread each; 1 works in this process. Raises BundleError."""
    transcriber = Transcriber.load(bundle_dir, device)
    if count <= 1:
        yield Workers(transcriber, None)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and CUDA's context
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with context.Pool(count, initializer=_load, initargs=(bundle_dir, device)) as pool:
        yield Workers(transcriber, pool)


def _load(bundle_dir: Path, device: Device) -> None:
    global _loaded
    torch.set_num_threads(1)
    _loaded = Transcriber.load(bundle_dir, device)


class _Call(Generic[Item, Result]):
    """`function(transcriber, item)` with the worker's own transcriber."""

    def __init__(self, function: Callable[[Transcriber, Item], Result]) -> None:
        self._function = function

    def __call__(self, item: Item) -> Result:
        assert _loaded is not None, "the pool's initializer has run"
        return self._function(_loaded, item)
