"""Word and character error rates, with bootstrap confidence intervals. Edit distances are jiwer's."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np


@dataclass(frozen=True)
class ErrorRate:
    """Errors over reference units (words or characters) of a set of utterances."""

    substitutions: int
    deletions: int
    insertions: int
    units: int  # in the references
    low: float  # 95 % bootstrap interval of the rate, over utterances
    high: float

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Fraction; may pass 1.0. Infinite for errors against an empty reference."""
        if not self.units:
            return float("inf") if self.errors else 0.0
        return self.errors / self.units


def word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], *, resamples: int = 1000
) -> ErrorRate:
    """WER over normalised texts. resamples: bootstrap draws, 0 for no interval (low = high = rate)."""
    return _error_rate([r.split() for r in references], [h.split() for h in hypotheses], resamples)


def char_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], *, resamples: int = 1000
) -> ErrorRate:
    """CER over normalised texts, spaces counted as characters."""
    return _error_rate([list(r) for r in references], [list(h) for h in hypotheses], resamples)


def word_errors(reference: str, hypothesis: str) -> int:
    """Edit distance in words."""
    return sum(_edits(reference.split(), hypothesis.split()))


def _error_rate(references: list[list[str]], hypotheses: list[list[str]], resamples: int) -> ErrorRate:
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    edits_N3 = np.array([_edits(r, h) for r, h in zip(references, hypotheses, strict=True)]).reshape(-1, 3)
    units_N = np.array([len(r) for r in references], dtype=np.int64)
    substitutions, deletions, insertions = (int(n) for n in edits_N3.sum(axis=0))
    rate = ErrorRate(substitutions, deletions, insertions, int(units_N.sum()), 0.0, 0.0)
    low = high = rate.rate
    if resamples and rate.units:
        draws = np.random.default_rng(0).integers(0, len(units_N), (resamples, len(units_N)))
        totals = units_N[draws].sum(axis=1)
        rates = edits_N3.sum(axis=1)[draws].sum(axis=1)[totals > 0] / totals[totals > 0]
        low, high = (float(q) for q in np.quantile(rates, [0.025, 0.975]))
    return ErrorRate(substitutions, deletions, insertions, rate.units, low, high)


def _edits(reference: list[str], hypothesis: list[str]) -> tuple[int, int, int]:
    """Substitutions, deletions, insertions.

    jiwer takes words, so units are numbered as such; it refuses none.
    """
    if not reference:
        return 0, 0, len(hypothesis)
    if not hypothesis:
        return 0, len(reference), 0
    names = {unit: f"u{i}" for i, unit in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    counts = jiwer.process_words(
        " ".join(names[u] for u in reference), " ".join(names[u] for u in hypothesis)
    )
    return counts.substitutions, counts.deletions, counts.insertions
