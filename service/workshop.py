"""A few threads that do whatever is to be done next, in batches where that pays.

The steps of a recording (`Stage`) each have a queue. A free thread takes the latest step that is ripe, so
that what was begun is finished before more is begun. A step that takes batches is ripe when a batch is full,
when nothing more is on its way from the step before, or when its first entry has waited `batch_wait_s` for
company. No thread is ever idle while something waits: a lone recording waits for nobody.

All bookkeeping happens on the event loop, so there are no locks. Every `do` ends: with its result, with its
exception, or cancelled.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from service.metrics import Metrics

MAX_PADDED = 0.25  # of a batch: recordings of other lengths wait for another one

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage(Generic[Item, Result]):
    """One step. `work` runs on a thread: as many results as items, in their order."""

    name: str
    work: Callable[[Sequence[Item]], Sequence[Result]]
    lanes: int  # threads that may do this at once
    max_items: int = 1  # in a batch
    max_size: float = 0.0  # of a batch: its items times the largest one's size; 0: no limit


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What came of one item."""

    result: Result
    waited_s: float  # for a thread
    worked_s: float  # its share of the batch's time


@dataclass(eq=False)
class _Entry:
    """An item in a stage's queue."""

    item: Any
    size: float
    urgency: float  # the lowest first
    alone: bool  # takes no company
    done: asyncio.Future[Done[Any]]
    since: float  # time.monotonic()


class Workshop:
    """`threads` threads, and the queues of `stages`, which are in the order of a recording's way."""

    def __init__(
        self, stages: Sequence[Stage[Any, Any]], threads: int, batch_wait_s: float, metrics: Metrics
    ) -> None:
        self.threads = threads
        self._stages = tuple(stages)
        self._batch_wait_s = batch_wait_s
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="speech")
        self._waiting: dict[str, list[_Entry]] = {stage.name: [] for stage in stages}
        self._running: dict[str, int] = {stage.name: 0 for stage in stages}
        self._queued = {stage.name: metrics.queued.labels(stage.name) for stage in stages}
        self._batches: set[asyncio.Future[Any]] = set()
        self._woken = False

    async def do(
        self,
        stage: Stage[Item, Result],
        item: Item,
        *,
        urgency: float,
        size: float = 0.0,
        alone: bool = False,
    ) -> Done[Result]:
        """The stage's result for the item. Raises what the work raises for this item alone.

        urgency: the lowest goes first. size: what the batch's padding is counted in. alone: no company.
        An item whose caller is cancelled before its batch begins is never worked on.
        """
        loop = asyncio.get_running_loop()
        entry = _Entry(item, size, urgency, alone, loop.create_future(), time.monotonic())
        queue = self._waiting[stage.name]
        queue.append(entry)
        self._wake()
        try:
            return await entry.done
        finally:
            if entry in queue:
                queue.remove(entry)
                self._show()

    async def close(self) -> None:
        """Wait for what runs. Nothing may be given to `do` any more."""
        if self._batches:
            await asyncio.wait(self._batches)
        self._executor.shutdown()

    def _wake(self) -> None:
        """Look for work once the loop has run everything that is ready, which may bring company."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._start_batches)

    def _start_batches(self) -> None:
        self._woken = False
        while len(self._batches) < self.threads and (stage := self._ripest()) is not None:
            queue = self._waiting[stage.name]
            free = min(self.threads - len(self._batches), stage.lanes - self._running[stage.name])
            batch = choose_batch(queue, stage, math.ceil(len(queue) / free))
            for entry in batch:
                queue.remove(entry)
            started = time.monotonic()
            items = [entry.item for entry in batch]
            running = asyncio.get_running_loop().run_in_executor(self._executor, _work, stage, items)
            self._running[stage.name] += 1
            self._batches.add(running)
            running.add_done_callback(partial(self._finish, stage, batch, started))
            self._observe(stage, batch)
        self._show()

    def _ripest(self) -> Stage[Any, Any] | None:
        """The latest stage that should begin a batch now."""
        now = time.monotonic()
        for place in reversed(range(len(self._stages))):
            stage = self._stages[place]
            queue = self._waiting[stage.name]
            if not queue or self._running[stage.name] >= stage.lanes:
                continue
            if stage.max_items == 1 or len(queue) >= stage.max_items:
                return stage
            if not self._coming(place) or now - min(entry.since for entry in queue) >= self._batch_wait_s:
                return stage
        return None

    def _coming(self, place: int) -> bool:
        """Whether the stage before has something that a free thread could take."""
        before = self._stages[place - 1] if place else None
        return (
            before is not None
            and bool(self._waiting[before.name])
            and self._running[before.name] < before.lanes
        )

    def _finish(
        self, stage: Stage[Any, Any], batch: list[_Entry], started: float, running: asyncio.Future[Any]
    ) -> None:
        """Hand a batch's results to those who still wait, and the thread to the next batch.

        A batch that fails is done again one by one: only those that fail alone have failed.
        """
        self._batches.discard(running)
        self._running[stage.name] -= 1
        wanted = [entry for entry in batch if not entry.done.done()]
        error = None if running.cancelled() else running.exception()
        if running.cancelled():
            for entry in wanted:
                entry.done.cancel()
        elif error is not None and len(batch) == 1:
            for entry in wanted:
                entry.done.set_exception(error)
        elif error is not None:
            for entry in wanted:
                entry.alone = True
                self._waiting[stage.name].append(entry)
        else:
            share_s = (time.monotonic() - started) / len(batch)
            for entry, result in zip(batch, running.result(), strict=True):
                if not entry.done.done():
                    entry.done.set_result(Done(result, started - entry.since, share_s))
        self._wake()  # after those who wait: what they give to the next stage comes along

    def _observe(self, stage: Stage[Any, Any], batch: Sequence[_Entry]) -> None:
        if stage.max_items > 1:
            self._metrics.batch_size.labels(stage.name).observe(len(batch))
            if padded := len(batch) * max(entry.size for entry in batch):
                real = sum(entry.size for entry in batch)
                self._metrics.padded_fraction.labels(stage.name).observe(1 - real / padded)

    def _show(self) -> None:
        for name, queue in self._waiting.items():
            self._queued[name].set(len(queue))


def choose_batch(queue: Sequence[_Entry], stage: Stage[Any, Any], share: int) -> list[_Entry]:
    """The most urgent entry and those next to it in size, within the stage's limits and `MAX_PADDED`.

    share: entries at most, so that every free thread has some.
    """
    first = min(queue, key=lambda entry: entry.urgency)
    if stage.max_items == 1 or first.alone:
        return [first]
    by_size = sorted((entry for entry in queue if not entry.alone), key=lambda entry: entry.size)
    low = high = by_size.index(first)
    total = first.size
    while high - low + 1 < min(stage.max_items, share):
        beside = [place for place in (low - 1, high + 1) if 0 <= place < len(by_size)]
        if not beside:
            break
        place = min(beside, key=lambda place: abs(by_size[place].size - first.size))
        largest = max(by_size[high].size, by_size[place].size)
        padded, real = largest * (high - low + 2), total + by_size[place].size
        if (stage.max_size and padded > stage.max_size) or padded - real > MAX_PADDED * padded:
            break
        low, high, total = min(low, place), max(high, place), real
    return by_size[low : high + 1]


def _work(stage: Stage[Any, Any], items: Sequence[Any]) -> Sequence[Any]:
    """One batch; on a thread."""
    try:
        results = stage.work(items)
    except StopIteration as error:  # the one exception that a future cannot hold
        raise RuntimeError(f"{stage.name} stopped an iteration") from error
    assert len(results) == len(items), f"{stage.name} gave {len(results)} results for {len(items)} items"
    return results
