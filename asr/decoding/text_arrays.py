"""Texts as arrays, which searches and scores hand each other: strings are made only of what is answered.

Making strings, lists and dictionaries holds the GIL, so that threads that decode wait for each other; kernels
free it.

Shapes: X texts, S code points of all of them, H slots of a hash table (a power of two).
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.jit import inner_kernel, kernel

_UTF_32 = f"utf-32-{sys.byteorder[0]}e"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no letter is forgotten
_SPACE, _LINE_FEED = np.uint32(ord(" ")), np.uint32(ord("\n"))


class Texts(NamedTuple):
    """Unicode code points, each text's behind those of the one before."""

    points: NDArray[np.uint32]  # (S,)
    first: NDArray[np.int64]  # (X + 1,) where each text's begin


class Numbered(NamedTuple):
    """Different texts, numbered as they come: room for them, and a hash table."""

    points: NDArray[np.uint32]  # (S,)
    first: NDArray[np.int64]  # (X + 1,)
    slots: NDArray[np.int64]  # (H,) a text's number by its hash; -1: free


def texts_of(strings: Sequence[str]) -> Texts:
    points = np.frombuffer("".join(strings).encode(_UTF_32), np.uint32)
    return Texts(points.copy(), np.cumsum([0, *map(len, strings)], dtype=np.int64))


def strings_of(texts: Texts) -> list[str]:
    everything = texts.points.tobytes().decode(_UTF_32)
    return [everything[begin:end] for begin, end in pairwise(texts.first.tolist())]


def lines_of(points: NDArray[np.uint32], n_lines: int) -> Texts:
    """The texts that have a line feed behind each, which is taken out of `points`."""
    first = np.empty(n_lines + 1, np.int64)
    _close_up(points, first)
    return Texts(points[: first[-1]], first)


def best_first(texts: Texts, totals_X: NDArray[np.float64]) -> NDArray[np.int64]:
    """The texts' places, largest total first, equal totals in alphabetical order."""
    order: NDArray[np.int64] = np.argsort(-totals_X, kind="stable")
    _settle_ties(texts, totals_X, order)
    return order


def picked(texts: Texts, places: NDArray[np.int64]) -> Texts:
    """The texts at some places, each there once."""
    points, first = np.empty_like(texts.points), np.empty(len(places) + 1, np.int64)
    _pick(texts, places, points, first)
    return Texts(points[: first[-1]], first)


def joined(texts: Texts, others: Texts) -> Texts:
    """Each text once: the first ones, then those of the others that are not among them."""
    known = room_for(len(texts.first) + len(others.first) - 2, len(texts.points) + len(others.points))
    n = _join(texts, others, known)
    return numbered(known, n)


def longest_words(texts: Texts) -> NDArray[np.int64]:
    """(X,): letters of each text's longest word."""
    longest_X = np.zeros(len(texts.first) - 1, np.int64)
    _measure_words(texts, longest_X)
    return longest_X


def room_for(n_texts: int, n_points: int) -> Numbered:
    n_slots = 1 << (2 * n_texts).bit_length()
    return Numbered(
        np.empty(n_points, np.uint32), np.zeros(n_texts + 1, np.int64), np.full(n_slots, -1, np.int64)
    )


def numbered(known: Numbered, n: int) -> Texts:
    """The n texts that there are."""
    first = known.first[: n + 1]
    return Texts(known.points[: first[-1]], first)


@inner_kernel
def number_of(points: NDArray[np.uint32], begin: int, end: int, known: Numbered, n: int) -> int:
    """The number of the text that is `points[begin:end]` among n that are known. A new one is added as n."""
    key = np.uint64(1)
    for place in range(begin, end):
        key = key * _FACTOR + np.uint64(points[place] + 1)
    mask = len(known.slots) - 1
    slot = np.int64(key >> np.uint64(20)) & mask
    while known.slots[slot] >= 0:
        number = known.slots[slot]
        if _same(points, begin, end, known, number):
            return int(number)
        slot = (slot + 1) & mask
    known.slots[slot] = n
    size = known.first[n]
    for place in range(begin, end):
        known.points[size + place - begin] = points[place]
    known.first[n + 1] = size + end - begin
    return n


@inner_kernel
def _same(points: NDArray[np.uint32], begin: int, end: int, known: Numbered, number: int) -> bool:
    first = known.first[number]
    if known.first[number + 1] - first != end - begin:
        return False
    same = True
    for place in range(begin, end):
        same = same and known.points[first + place - begin] == points[place]
    return same


@kernel
def _join(texts: Texts, others: Texts, known: Numbered) -> int:
    """Numbers all texts. Returns how many different ones there are."""
    n = 0
    for i in range(len(texts.first) - 1):
        n = max(n, 1 + number_of(texts.points, texts.first[i], texts.first[i + 1], known, n))
    for i in range(len(others.first) - 1):
        n = max(n, 1 + number_of(others.points, others.first[i], others.first[i + 1], known, n))
    return n


@kernel
def _close_up(points: NDArray[np.uint32], first: NDArray[np.int64]) -> None:
    """Takes out the line feeds that end texts, and writes where texts begin."""
    place = size = 0
    first[0] = 0
    for i in range(len(first) - 1):
        while points[place] != _LINE_FEED:
            points[size] = points[place]
            size += 1
            place += 1
        place += 1
        first[i + 1] = size


@kernel
def _pick(
    texts: Texts, places: NDArray[np.int64], points: NDArray[np.uint32], first: NDArray[np.int64]
) -> None:
    size = 0
    first[0] = 0
    for j in range(len(places)):
        for place in range(texts.first[places[j]], texts.first[places[j] + 1]):
            points[size] = texts.points[place]
            size += 1
        first[j + 1] = size


@kernel
def _measure_words(texts: Texts, longest_X: NDArray[np.int64]) -> None:
    for i in range(len(longest_X)):
        length = longest = 0
        for place in range(texts.first[i], texts.first[i + 1]):
            length = 0 if texts.points[place] == _SPACE else length + 1
            longest = max(longest, length)
        longest_X[i] = longest


@kernel
def _settle_ties(texts: Texts, totals_X: NDArray[np.float64], order: NDArray[np.int64]) -> None:
    """Neighbours in the order with equal totals are put in alphabetical order."""
    for j in range(1, len(order)):
        text, place = order[j], j
        while (
            place > 0
            and totals_X[order[place - 1]] == totals_X[text]
            and comes_before(texts, text, order[place - 1])
        ):
            order[place] = order[place - 1]
            place -= 1
        order[place] = text


@inner_kernel
def comes_before(texts: Texts | Numbered, a: int, b: int) -> bool:
    """Whether text a comes before text b in a dictionary."""
    first_a, first_b = texts.first[a], texts.first[b]
    length_a, length_b = texts.first[a + 1] - first_a, texts.first[b + 1] - first_b
    for i in range(min(length_a, length_b)):
        point_a, point_b = texts.points[first_a + i], texts.points[first_b + i]
        if point_a != point_b:
            return bool(point_a < point_b)
    return bool(length_a < length_b)
