"""Memory to work in that a search leaves behind for the next one.

Memory that is new to the process is had page by page, and given back under the GIL: for a short recording
that took longer than the search's own Python.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Memory = TypeVar("Memory")

MOST = 16  # that are kept: more searches than these at once make their own


class MemoryPool(Generic[Memory]):
    """As many as searches overlap. For any number of threads."""

    def __init__(self, make: Callable[[], Memory], worth_keeping: Callable[[Memory], bool]) -> None:
        """worth_keeping: not where a long recording has made one large."""
        self._make, self._worth_keeping = make, worth_keeping
        self._free: deque[Memory] = deque(maxlen=MOST)

    @contextmanager
    def one(self) -> Iterator[Memory]:
        """Memory that nobody else has; what is in it is left from another search."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = self._make()
        try:
            yield memory
        finally:
            if self._worth_keeping(memory):
                self._free.append(memory)
