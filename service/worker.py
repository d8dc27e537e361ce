"""Decoding off the event loop: a few threads and a bounded queue before them.

All bookkeeping happens on the event loop, so there are no locks. Every job that `run` accepts ends: with its
result, its exception, or one of this package's errors when its time is up, its caller leaves, or the service
stops.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from service.errors import BusyError, CallerLeftError, StoppingError, TimedOutError
from service.metrics import Metrics

MAX_RETRY_AFTER_S = 60
SMOOTHING = 0.2  # weight of the newest job in the running mean of seconds per job

T = TypeVar("T")


@dataclass(frozen=True)
class _Job:
    """A piece of work that has a place."""

    work: Callable[[float], Any]  # given the seconds left
    answer: asyncio.Future[Any]
    arrived: float  # time.monotonic()
    deadline: float  # the same clock

    def begin(self) -> Any:
        """Do the work; on a worker thread."""
        return self.work(self.deadline - time.monotonic())


@dataclass(frozen=True)
class Done(Generic[T]):
    """A job's result and how long it waited for a worker."""

    result: T
    waited_s: float


class WorkerPool:
    """`workers` threads, and at most `max_queued` jobs waiting for them, first come first served."""

    def __init__(self, workers: int, max_queued: int, metrics: Metrics) -> None:
        self._workers = workers
        self._max_queued = max_queued
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._waiting: deque[_Job] = deque()
        self._running: set[asyncio.Future[Any]] = set()
        self._mean_s = 1.0
        self._stopping = False

    def check_room(self) -> None:
        """Raises BusyError or StoppingError when `run` would."""
        if self._stopping:
            raise StoppingError("the service is shutting down", retry_after_s=1)
        if len(self._running) >= self._workers and len(self._waiting) >= self._max_queued:
            message = f"{len(self._running)} recordings are being decoded and {len(self._waiting)} wait"
            raise BusyError(message, self._retry_after_s())

    async def run(
        self, work: Callable[[float], T], *, timeout_s: float, caller_left: Callable[[], Awaitable[None]]
    ) -> Done[T]:
        """The result of `work(seconds_left)`, called on a worker thread.

        timeout_s: from now, waiting included. caller_left: returns when nobody wants the answer any more.
        Work that has not begun when the time is up or the caller leaves never begins; work that has begun
        keeps its thread until it returns. Raises BusyError at once when the pool is full; StoppingError,
        TimedOutError, CallerLeftError; and what `work` raises.
        """
        self.check_room()
        now = time.monotonic()
        job = _Job(work, asyncio.get_running_loop().create_future(), now, now + timeout_s)
        self._waiting.append(job)
        self._start_waiting()
        leaving = asyncio.ensure_future(caller_left())
        try:
            await asyncio.wait({job.answer, leaving}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if job.answer.done():
                done: Done[T] = job.answer.result()
                return done
            if leaving.done():
                raise CallerLeftError("the caller closed the connection")
            raise TimedOutError(f"no result within {timeout_s:g} s")
        finally:
            leaving.cancel()
            job.answer.cancel()
            if job in self._waiting:
                self._waiting.remove(job)
            self._show()

    async def close(self) -> None:
        """Refuse new work, end what waits, and wait for what runs."""
        self._stopping = True
        while self._waiting:
            job = self._waiting.popleft()
            if not job.answer.done():
                job.answer.set_exception(StoppingError("the service is shutting down", retry_after_s=1))
        if self._running:
            await asyncio.wait(self._running)
        self._executor.shutdown()

    def _start_waiting(self) -> None:
        """Give free threads to the jobs that wait."""
        while self._waiting and len(self._running) < self._workers:
            job = self._waiting.popleft()
            started = time.monotonic()
            waited_s = started - job.arrived
            self._metrics.queue_wait.observe(waited_s)
            running = asyncio.get_running_loop().run_in_executor(self._executor, job.begin)
            self._running.add(running)
            running.add_done_callback(partial(self._finish, job, waited_s, started))
        self._show()

    def _finish(self, job: _Job, waited_s: float, started: float, running: asyncio.Future[Any]) -> None:
        """Hand a thread's outcome to whoever still waits for it, and the thread to the next job."""
        self._running.discard(running)
        self._mean_s += SMOOTHING * (time.monotonic() - started - self._mean_s)
        error = StoppingError("the work was cancelled") if running.cancelled() else running.exception()
        if not job.answer.done():
            if error is not None:
                job.answer.set_exception(error)
            else:
                job.answer.set_result(Done(running.result(), waited_s))
        self._start_waiting()

    def _retry_after_s(self) -> int:
        """Seconds until a place should be free: one job's share of the threads."""
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self._mean_s / self._workers)))

    def _show(self) -> None:
        self._metrics.in_flight.set(len(self._running))
        self._metrics.queued.set(len(self._waiting))
