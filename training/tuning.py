"""Decoding weights that make the fewest word errors on cached n-best lists: plain numpy, no models.

Shapes: U utterances, H hypotheses of one utterance (padded), K sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

N_RANDOM = 1500
N_LOCAL = 300  # per refinement
N_FINALISTS = 15
N_NEIGHBOURS = 12


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
        return dict(zip(self.sets, self._wer_k(weights).tolist(), strict=True))

    def objective(self, weights: Weights) -> float:
        """Weighted mean of the sets' WER."""
        return float(self.set_weights @ self._wer_k(weights))

    def oracle(self) -> dict[str, float]:
        """WER of each set if the best candidate were always chosen."""
        errors_U = np.where(np.isfinite(self.acoustic), self.errors, np.inf).min(axis=1)
        return dict(zip(self.sets, (self.in_set @ errors_U / self.reference_words).tolist(), strict=True))

    def _wer_k(self, weights: Weights) -> NDArray[np.float64]:
        total_UH = (
            self.acoustic
            + weights.alpha * self.ngram
            + weights.unknown * self.unknown
            + weights.beta * self.words
            + weights.gamma * self.gpt2
        )
        errors_U = self.errors[np.arange(len(total_UH)), total_UH.argmax(axis=1)]
        wer_K: NDArray[np.float64] = self.in_set @ errors_U / self.reference_words
        return wer_K


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


def search(lists: Lists, start: Weights, within: Range, seed: int) -> Weights:
    """The point whose neighbourhood makes the fewest errors, never worse than `start` itself.

    Random points, then closer and closer around the best; among the finalists the one whose neighbours do
    well on average wins, since single points are lucky: the objective is a staircase of counts.
    """
    rng = np.random.default_rng(seed)
    low = np.array([within.low.alpha, within.low.beta, within.low.unknown, within.low.gamma])
    high = np.array([within.high.alpha, within.high.beta, within.high.unknown, within.high.gamma])
    first = np.array([start.alpha, start.beta, start.unknown, start.gamma])
    points = [first, *rng.uniform(low, high, (N_RANDOM, 4))]
    scored = sorted(((lists.objective(_weights(p)), tuple(p)) for p in points), key=lambda s: s[0])
    for width in (0.15, 0.05, 0.02):
        centres = np.array([p for _, p in scored[:10]])
        around = centres[rng.integers(len(centres), size=N_LOCAL)] + rng.normal(0, width, (N_LOCAL, 4)) * (
            high - low
        )
        scored += [(lists.objective(_weights(p)), tuple(p)) for p in np.clip(around, low, high)]
        scored.sort(key=lambda s: s[0])

    def neighbourhood(point: tuple[float, ...]) -> float:
        near = np.array(point) + rng.normal(0, 0.02, (N_NEIGHBOURS, 4)) * (high - low)
        return float(np.mean([lists.objective(_weights(p)) for p in np.clip(near, low, high)]))

    finalists = scored[:N_FINALISTS]
    chosen = min(finalists, key=lambda s: (s[0] + neighbourhood(s[1])) / 2)
    best = _rounded(_weights(np.array(chosen[1])))
    return best if lists.objective(best) <= lists.objective(start) else start


def _weights(point: NDArray[np.float64]) -> Weights:
    return Weights(*map(float, point))


def _rounded(weights: Weights) -> Weights:
    """Three decimals are more than dev can tell apart."""
    return replace(weights, **{name: round(value, 3) for name, value in vars(weights).items()})
