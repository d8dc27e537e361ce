"""The threads and their queues: batches by length, later steps first, and every `do` ends."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.metrics import Metrics
from service.workshop import MAX_PADDED, Stage, Workshop, _Entry, choose_batch
from tests.scripted_speech import PATIENCE_S


def on_workshop(
    check: Callable[[Workshop], Awaitable[None]],
    *stages: Stage[Any, Any],
    threads: int = 1,
    wait_s: float = PATIENCE_S,
) -> None:
    """Run an async check with a workshop of these stages, and close it."""

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            workshop = Workshop(stages, threads, wait_s, Metrics())
            await check(workshop)
            await workshop.close()

    asyncio.run(run())


class Steps:
    """Two stages that note what they did; `gate` holds the one named `hold`."""

    def __init__(self, max_items: int = 4) -> None:
        self.done: list[tuple[str, list[int]]] = []
        self.gate = threading.Event()
        self.first: Stage[int, int] = Stage("first", self._work("first"), lanes=9)
        self.second: Stage[int, int] = Stage("second", self._work("second"), lanes=9, max_items=max_items)

    def _work(self, name: str) -> Callable[[Sequence[int]], list[int]]:
        def work(items: Sequence[int]) -> list[int]:
            self.done.append((name, list(items)))
            if -1 in items:
                assert self.gate.wait(PATIENCE_S)
            if -2 in items:
                raise ZeroDivisionError
            return [item * 10 for item in items]

        return work


def test_what_waits_together_is_done_together_and_in_order_of_urgency() -> None:
    steps = Steps()

    async def check(workshop: Workshop) -> None:
        busy = asyncio.create_task(workshop.do(steps.first, -1, urgency=0))
        await asyncio.sleep(0.01)
        rest = [asyncio.create_task(workshop.do(steps.second, n, urgency=-n, size=1)) for n in range(6)]
        await asyncio.sleep(0)
        steps.gate.set()
        assert (await busy).result == -10
        assert [(await one).result for one in rest] == [0, 10, 20, 30, 40, 50]

    on_workshop(check, steps.first, steps.second)
    batches = [items for name, items in steps.done if name == "second"]
    assert [len(items) for items in batches] == [4, 2]
    assert 5 in batches[0]


def test_what_waits_is_shared_among_the_free_threads() -> None:
    steps = Steps(max_items=8)

    async def check(workshop: Workshop) -> None:
        await asyncio.gather(*(workshop.do(steps.second, n, urgency=n, size=1) for n in range(6)))

    on_workshop(check, steps.first, steps.second, threads=2)
    assert sorted(len(items) for _, items in steps.done) == [3, 3]


def test_a_lone_item_waits_for_nobody() -> None:
    steps = Steps()

    async def check(workshop: Workshop) -> None:
        done = await workshop.do(steps.second, 1, urgency=0, size=1)  # the wait for company is for ever
        assert done.result == 10

    on_workshop(check, steps.first, steps.second)


@pytest.mark.parametrize("wait_s", [PATIENCE_S, 0.0])
def test_a_batch_waits_for_those_on_their_way_but_not_longer_than_it_may(wait_s: float) -> None:
    steps = Steps()

    async def check(workshop: Workshop) -> None:
        async def both(n: int) -> None:
            await workshop.do(steps.first, n, urgency=n)
            await workshop.do(steps.second, n, urgency=n, size=1)

        await asyncio.gather(*map(both, range(3)))

    on_workshop(check, steps.first, steps.second, wait_s=wait_s)
    seconds = [items for name, items in steps.done if name == "second"]
    assert seconds == ([[0, 1, 2]] if wait_s else [[0], [1], [2]])


def test_of_a_batch_that_fails_only_those_fail_that_fail_alone() -> None:
    steps = Steps()

    async def check(workshop: Workshop) -> None:
        waiting = [workshop.do(steps.second, n, urgency=n, size=1) for n in (1, -2, 3)]
        first, broken, last = await asyncio.gather(*waiting, return_exceptions=True)
        assert (first.result, last.result) == (10, 30)
        assert isinstance(broken, ZeroDivisionError)
        assert (await workshop.do(steps.second, 4, urgency=0)).result == 40

    on_workshop(check, steps.first, steps.second)
    assert sorted(items for _, items in steps.done) == [[-2], [1], [1, -2, 3], [3], [4]]


def test_work_that_stops_an_iteration_is_an_error_like_any_other() -> None:
    def stop(_: Sequence[int]) -> list[int]:
        raise StopIteration

    stage: Stage[int, int] = Stage("stops", stop, lanes=1)

    async def check(workshop: Workshop) -> None:
        with pytest.raises(RuntimeError):
            await workshop.do(stage, 1, urgency=0)

    on_workshop(check, stage)


def test_a_cancelled_item_is_never_worked_on_and_one_in_work_lets_its_caller_go() -> None:
    steps = Steps()

    async def check(workshop: Workshop) -> None:
        running = asyncio.create_task(workshop.do(steps.first, -1, urgency=0))
        waiting = asyncio.create_task(workshop.do(steps.first, 7, urgency=0))
        await asyncio.sleep(0.01)
        for task in (waiting, running):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        steps.gate.set()
        assert (await workshop.do(steps.first, 3, urgency=0)).result == 30

    on_workshop(check, steps.first, steps.second)
    assert steps.done == [("first", [-1]), ("first", [3])]


def test_lanes_are_kept() -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def work(items: Sequence[int]) -> Sequence[int]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.002)
        with lock:
            inside -= 1
        return items

    stage: Stage[int, int] = Stage("narrow", work, lanes=1)

    async def check(workshop: Workshop) -> None:
        await asyncio.gather(*(workshop.do(stage, n, urgency=n) for n in range(8)))

    on_workshop(check, stage, threads=4)
    assert most == 1


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=30),
    max_items=st.integers(2, 8),
    max_size=st.sampled_from([0, 500, 5000]),
)
def test_batches_keep_their_limits_and_hold_the_most_urgent(
    sizes: list[int], max_items: int, max_size: int
) -> None:
    async def check() -> None:
        future = asyncio.get_running_loop().create_future()
        queue = [_Entry(n, size, (7 * n) % 11, False, future, 0.0) for n, size in enumerate(sizes)]
        stage: Stage[int, int] = Stage("s", lambda items: items, 1, max_items, max_size)
        batch = choose_batch(queue, stage, len(queue))
        assert min(queue, key=lambda entry: entry.urgency) in batch
        padded = len(batch) * max(entry.size for entry in batch)
        assert len(batch) <= max_items
        assert len(batch) == 1 or not max_size or padded <= max_size
        assert padded - sum(entry.size for entry in batch) <= MAX_PADDED * padded

    asyncio.run(check())
