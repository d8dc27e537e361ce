"""Texts packed as tries of tokens, so that a causal language model reads what they share only once.

A pack is one row for the model: every node is an input token that sees itself and its ancestors, at the
position of its depth. What the model predicts at a node is what it predicts there for the text alone.

Shapes: N nodes of a pack, M scored tokens of its windows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of one text, short enough for the model."""

    text: int  # index of the text it belongs to
    inputs: tuple[int, ...]
    targets: tuple[int, ...]  # inputs moved on by one
    first: int  # targets before this one were scored by the text's previous window


@dataclass(frozen=True)
class Pack:
    """Windows that share one row of the model."""

    inputs: NDArray[np.int64]  # (N,)
    positions: NDArray[np.int64]  # (N,)
    parents: NDArray[np.int64]  # (N,); -1: a root; parents come before their children
    nodes: NDArray[np.int64]  # (M,); the node that predicts each scored token
    targets: NDArray[np.int64]  # (M,); the scored tokens
    texts: NDArray[np.int64]  # (M,); the text that each belongs to

    def sees(self) -> NDArray[np.bool_]:
        """(N, N): whether node i (row) sees node j (column), which is itself or an ancestor."""
        sees_NN = np.eye(len(self.inputs), dtype=bool)
        for node, parent in enumerate(self.parents.tolist()):
            if parent >= 0:
                sees_NN[node] |= sees_NN[parent]
        return sees_NN


def windows_of(
    text: int, ids: Sequence[int], *, begin_id: int, end_id: int, n_positions: int
) -> Iterator[Window]:
    """The windows that score every token of a text and its end once.

    One where the text fits the model's positions. Longer texts get windows that overlap by half: each token
    has at least half the positions before it as context.
    """
    inputs, targets = (begin_id, *ids), (*ids, end_id)
    stride = max(n_positions // 2, 1)
    scored = start = 0
    while scored < len(targets):
        stop = min(start + n_positions, len(targets))
        yield Window(text, inputs[start:stop], targets[start:stop], scored - start)
        scored = stop
        start += stride


def packed(windows: Sequence[Window], max_nodes: int) -> Iterator[Pack]:
    """The windows as tries of at most `max_nodes` nodes each; a longer window has a pack of its own.

    Sorted by their tokens first, so that windows that begin alike are neighbours: then the longest beginning
    that a window shares with any earlier one is the one that it shares with its neighbour.
    """
    draft = _Draft()
    for window in sorted(windows, key=lambda w: w.inputs):
        n_new = len(window.inputs) - draft.shared(window)
        if draft.parents and len(draft.parents) + n_new > max_nodes:
            yield draft.pack()
            draft = _Draft()
        draft.add(window)
    if draft.parents:
        yield draft.pack()


class _Draft:
    """A pack that grows."""

    def __init__(self) -> None:
        self.inputs: list[int] = []
        self.positions: list[int] = []
        self.parents: list[int] = []
        self._scored: list[tuple[int, int, int]] = []  # node, target, text
        self._last: tuple[int, ...] = ()  # inputs of the window added last
        self._path: list[int] = []  # and their nodes

    def shared(self, window: Window) -> int:
        """How many of the window's inputs the last one begins with."""
        n = 0
        for ours, theirs in zip(window.inputs, self._last, strict=False):
            if ours != theirs:
                break
            n += 1
        return n

    def add(self, window: Window) -> None:
        path = self._path[: self.shared(window)]
        for depth in range(len(path), len(window.inputs)):
            self.parents.append(path[-1] if path else -1)
            self.inputs.append(window.inputs[depth])
            self.positions.append(depth)
            path.append(len(self.inputs) - 1)
        for node, target in list(zip(path, window.targets, strict=True))[window.first :]:
            self._scored.append((node, target, window.text))
        self._last, self._path = window.inputs, path

    def pack(self) -> Pack:
        scored_3M = np.array(self._scored, dtype=np.int64).reshape(-1, 3).T
        arrays = (np.array(a, dtype=np.int64) for a in (self.inputs, self.positions, self.parents))
        return Pack(*arrays, *scored_3M)
