"""Room to work in that a search leaves behind for the next one.

Memory that is new to the process is had page by page, and given back under the GIL: for a short recording
that took longer than the search's own Python.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Room = TypeVar("Room")

MOST = 16  # that are kept: more searches than these at once make their own


class Rooms(Generic[Room]):
    """As many as searches overlap. For any number of threads."""

    def __init__(self, make: Callable[[], Room], worth_keeping: Callable[[Room], bool]) -> None:
        """worth_keeping: not where a long recording has made a room large."""
        self._make, self._worth_keeping = make, worth_keeping
        self._free: deque[Room] = deque(maxlen=MOST)

    @contextmanager
    def one(self) -> Iterator[Room]:
        """A room that nobody else has; what is in it is left from another search."""
        try:
            room = self._free.pop()
        except IndexError:
            room = self._make()
        try:
            yield room
        finally:
            if self._worth_keeping(room):
                self._free.append(room)
