"""Milliseconds per stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Collects them, after those of the stages before."""

    def __init__(self, timings_ms: dict[str, float] | None = None) -> None:
        self.timings_ms = dict(timings_ms or {})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings_ms[name] = 1000 * (time.perf_counter() - started)
