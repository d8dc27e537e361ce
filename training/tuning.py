"""Decoding weights that make the fewest word errors on cached n-best lists: plain numpy, no models.

All weights are searched together, thousands of settings at a time: a setting is a row of a matrix product
with the components of every hypothesis. Shapes: P points (settings), U utterances, H hypotheses of one
utterance (padded), K sets.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_RANDOM = 4000
N_LOCAL = 800  # per refinement
N_ALONG_AXIS = 81  # per weight and sweep
N_SWEEPS = 2
N_FINALISTS = 15
N_NEIGHBOURS = 12
N_SURFACE = 41  # points along each side of a plotted surface
_CHUNK_SCORES = 4_000_000  # of points x hypotheses held at once: 32 MB


@dataclass(frozen=True)
class Candidate:
    """A text that beam search found, with the unweighted parts of its score (natural logarithms)."""

    text: str
    acoustic: float
    ngram: float  # log-probability
    n_unknown: int
    n_words: int
    gpt2: float = 0.0  # log-probability; 0 until it is asked for


@dataclass(frozen=True)
class Weights:
    """A point of the search."""

    alpha: float
    beta: float
    unknown: float  # per unknown word
    gamma: float = 0.0


AXES = tuple(field.name for field in fields(Weights))


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    weights: Weights
    objective: float
    start_objective: float
    settings_scored: int
    cpu_s: float  # of processor time


@dataclass(frozen=True)
class Range:
    """Where weights are looked for, ends included; equal ends hold a weight fixed."""

    low: Weights
    high: Weights


@dataclass(frozen=True)
class Lists:
    """Candidates of all utterances as arrays, what they get wrong, and how errors are to be counted."""

    acoustic: NDArray[np.float64]  # (U, H); -inf where there is no candidate
    ngram: NDArray[np.float64]  # (U, H), like the next four; 0 where there is no candidate
    unknown: NDArray[np.float64]
    words: NDArray[np.float64]
    gpt2: NDArray[np.float64]
    errors: NDArray[np.float64]  # word errors
    in_set: NDArray[np.float64]  # (K, U), 1 where the utterance belongs to the set
    reference_words: NDArray[np.float64]  # (K,)
    set_weights: NDArray[np.float64]  # (K,), of each set's WER in the objective; they add up to 1
    sets: tuple[str, ...]

    def set_wers(self, weights: Weights) -> dict[str, float]:
        """WER of each set, with the best candidate of each utterance."""
        return dict(zip(self.sets, self._wers(_points([weights]))[0].tolist(), strict=True))

    def objective(self, weights: Weights) -> float:
        """Weighted mean of the sets' WER."""
        return float(self.objectives(_points([weights]))[0])

    def objectives(self, points_P4: NDArray[np.float64]) -> NDArray[np.float64]:
        """The objective of many settings, (P,); columns are the fields of `Weights`."""
        # Not a matrix product: its last digit would depend on how many points there are.
        objectives_P: NDArray[np.float64] = (self._wers(points_P4) * self.set_weights).sum(axis=1)
        return objectives_P

    def oracle(self) -> dict[str, float]:
        """WER of each set if the best candidate were always chosen."""
        errors_U = np.where(np.isfinite(self.acoustic), self.errors, np.inf).min(axis=1)
        return dict(zip(self.sets, (self.in_set @ errors_U / self.reference_words).tolist(), strict=True))

    @cached_property
    def _components(self) -> NDArray[np.float64]:
        """(4, U * H), in the order of `Weights`' fields."""
        return np.stack([part.ravel() for part in (self.ngram, self.words, self.unknown, self.gpt2)])

    def _wers(self, points_P4: NDArray[np.float64]) -> NDArray[np.float64]:
        """WER of each set under each setting, (P, K)."""
        n_utterances, n_hypotheses = self.acoustic.shape
        at_once = max(1, _CHUNK_SCORES // self.acoustic.size)
        rows = np.arange(n_utterances)
        wers = []
        for start in range(0, len(points_P4), at_once):
            totals = points_P4[start : start + at_once] @ self._components + self.acoustic.ravel()
            best_PU = totals.reshape(-1, n_utterances, n_hypotheses).argmax(axis=2)
            wers.append(self.errors[rows, best_PU] @ self.in_set.T / self.reference_words)
        return np.concatenate(wers)


def make_lists(
    candidates: Sequence[Sequence[Candidate]],
    errors: Sequence[Sequence[int]],
    reference_words: Sequence[int],
    sets: Sequence[str],
    set_weights: Mapping[str, float],
) -> Lists:
    """Arrays of each utterance's candidates (at least one), their word errors, and the reference's words.

    set_weights: of each set's WER in the objective, 1 where not given. Raises ValueError when a set has no
    words.
    """
    shape = (len(candidates), max(map(len, candidates)))
    arrays = {name: np.zeros(shape) for name in ("ngram", "n_unknown", "n_words", "gpt2", "errors")}
    arrays["acoustic"] = np.full(shape, -np.inf)
    for u, (row, row_errors) in enumerate(zip(candidates, errors, strict=True)):
        for name in ("acoustic", "ngram", "n_unknown", "n_words", "gpt2"):
            arrays[name][u, : len(row)] = [getattr(candidate, name) for candidate in row]
        arrays["errors"][u, : len(row)] = row_errors
    names = tuple(sorted(set(sets)))
    set_KU: NDArray[np.float64] = np.array([[float(s == name) for s in sets] for name in names])
    words_K: NDArray[np.float64] = set_KU @ np.array(reference_words, dtype=np.float64)
    if not words_K.all():
        raise ValueError("a set has no reference words")
    weight_K = np.array([set_weights.get(name, 1.0) for name in names])
    return Lists(
        acoustic=arrays["acoustic"],
        ngram=arrays["ngram"],
        unknown=arrays["n_unknown"],
        words=arrays["n_words"],
        gpt2=arrays["gpt2"],
        errors=arrays["errors"],
        in_set=set_KU,
        reference_words=words_K,
        set_weights=weight_K / weight_K.sum(),
        sets=names,
    )


def merge(first: Sequence[Candidate], second: Sequence[Candidate]) -> list[Candidate]:
    """Both lists' texts once each; one found twice keeps the higher acoustic score (more paths)."""
    by_text = {candidate.text: candidate for candidate in first}
    for candidate in second:
        known = by_text.get(candidate.text, candidate)
        by_text[candidate.text] = max(known, candidate, key=lambda c: c.acoustic)
    return list(by_text.values())


def search(lists: Lists, start: Weights, within: Range, seed: int) -> Found:
    """The point whose neighbourhood makes the fewest errors, never worse than `start` itself.

    All weights move together: random points, closer and closer around the best, then along each axis through
    the very best. Among the finalists the one whose neighbours do well on average wins, since single points
    are lucky: the objective is a staircase of counts.
    """
    began = time.process_time()
    rng = np.random.default_rng(seed)
    low, high = _points([within.low, within.high])
    first = _points([start])
    points = np.concatenate([first, rng.uniform(low, high, (N_RANDOM, len(AXES)))])
    scored = _Scored(lists, points)
    for width in (0.15, 0.05, 0.02):
        centres = scored.best(20)
        steps = rng.normal(0, width, (N_LOCAL, len(AXES))) * (high - low)
        scored.add(np.clip(centres[rng.integers(len(centres), size=N_LOCAL)] + steps, low, high))
    for _ in range(N_SWEEPS):
        for axis in range(len(AXES)):
            line = np.repeat(scored.best(1), N_ALONG_AXIS, axis=0)
            line[:, axis] = np.linspace(low[axis], high[axis], N_ALONG_AXIS)
            scored.add(line)
    finalists = np.round(np.concatenate([scored.best(N_FINALISTS), first]), 3)  # dev tells no more apart
    near = rng.normal(0, 0.02, (len(finalists), N_NEIGHBOURS, len(AXES))) * (high - low)
    around = np.clip(finalists[:, None] + near, low, high).reshape(-1, len(AXES))
    own_F = scored.add(finalists)
    smooth_F = (own_F + scored.add(around).reshape(len(finalists), -1).mean(axis=1)) / 2
    smooth_F[own_F > scored.objectives[0]] = np.inf  # never worse than the start
    weights = start if np.isinf(smooth_F).all() else Weights(*finalists[smooth_F.argmin()].tolist())
    return Found(
        weights=weights,
        objective=lists.objective(weights),
        start_objective=float(scored.objectives[0]),
        settings_scored=len(scored.points),
        cpu_s=time.process_time() - began,
    )


def surface(lists: Lists, at: Weights, x: str, y: str, within: Range) -> dict[str, Any]:
    """The objective over two weights, the others held as they are at a point: what is plotted.

    Returns `x`, `y` (names), `x_values`, `y_values`, `objective` (a row per y) and `at` (the point).
    """
    columns = [AXES.index(x), AXES.index(y)]
    low, high = _points([within.low, within.high])
    x_values, y_values = (np.linspace(low[c], high[c], N_SURFACE) for c in columns)
    grid = np.repeat(_points([at]), N_SURFACE**2, axis=0)
    grid[:, columns[0]] = np.tile(x_values, N_SURFACE)
    grid[:, columns[1]] = np.repeat(y_values, N_SURFACE)
    objectives = lists.objectives(grid).reshape(N_SURFACE, N_SURFACE)
    return {
        "x": x,
        "y": y,
        "x_values": x_values.round(4).tolist(),
        "y_values": y_values.round(4).tolist(),
        "objective": objectives.round(5).tolist(),
        "at": [getattr(at, x), getattr(at, y)],
    }


class _Scored:
    """Points tried so far, with their objectives; the first point is the start."""

    def __init__(self, lists: Lists, points: NDArray[np.float64]) -> None:
        self._lists = lists
        self.points, self.objectives = points, lists.objectives(points)

    def add(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        objectives = self._lists.objectives(points)
        self.points = np.concatenate([self.points, points])
        self.objectives = np.concatenate([self.objectives, objectives])
        return objectives

    def best(self, count: int) -> NDArray[np.float64]:
        """The best points, (count, 4); of equals the one tried first."""
        return self.points[np.argsort(self.objectives, kind="stable")[:count]]


def _points(weights: Sequence[Weights]) -> NDArray[np.float64]:
    return np.array([astuple(w) for w in weights], dtype=np.float64)
