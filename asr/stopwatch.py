"""Milliseconds per stage."""

import time
from collections.abc import Iterable, Iterator, Mapping
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


def added_up(timings_ms: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of several, stage by stage."""
    total: dict[str, float] = {}
    for one in timings_ms:
        for stage, milliseconds in one.items():
            total[stage] = total.get(stage, 0.0) + milliseconds
    return total
