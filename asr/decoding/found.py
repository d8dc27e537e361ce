"""What a search has found, as arrays.

Shapes: X texts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.decoding.result import Hypothesis, Scores, parts_of, totals_of
from asr.decoding.text_arrays import Texts, best_first, picked, strings_of, texts_of


class Found(NamedTuple):
    """Texts with their scores."""

    texts: Texts
    parts_X6: NDArray[np.float64]  # in the order of `Scores`' fields

    def hypotheses(self) -> list[Hypothesis]:
        """As they come."""
        texts, parts = strings_of(self.texts), self.parts_X6.tolist()
        return [Hypothesis(text, Scores(*row)) for text, row in zip(texts, parts, strict=True)]


def found_of(hypotheses: Sequence[Hypothesis]) -> Found:
    """As they come."""
    return Found(texts_of([hypothesis.text for hypothesis in hypotheses]), parts_of(hypotheses))


def ranked(found: Found, limit: int | None = None) -> Found:
    """Best first, equal totals in alphabetical order; no more than `limit` of them."""
    return at_places(found, best_first(found.texts, totals_of(found.parts_X6))[:limit])


def at_places(found: Found, places: NDArray[np.int64]) -> Found:
    """Those at some places, each there once."""
    if np.array_equal(places, np.arange(len(found.parts_X6))):
        return found
    return Found(picked(found.texts, places), found.parts_X6[places])
