"""Log-probabilities of overlapping stretches put together, cut where both are surest that nothing is said.

Two passes over the same second give nearly the same posteriors away from their edges, but a label's peak may
move by a frame. Cut where it is, it would be written twice or not at all; cut at a blank, it cannot be.

Shapes: T frames, V CTC outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LogProbs = NDArray[np.float32]
_EDGE_SHARE = 0.25  # of the overlap at either end, where one of the two lacks context


@dataclass(frozen=True)
class Heard:
    """One stretch's log-probabilities."""

    log_probs_TV: LogProbs
    start: int  # samples from the beginning of the recording
    overlaps: bool  # the stretch before
    continues: bool  # the next stretch overlaps this one


@dataclass(frozen=True)
class Passage:
    """Log-probabilities that are decoded together: what lies between two pauses, as a rule."""

    log_probs_TV: LogProbs
    start: int  # samples from the beginning of the recording


@dataclass
class Joiner:
    """Takes stretches in order, gives passages as they become complete."""

    blank_id: int
    longest: int  # frames of a passage; a longer one is cut where its stretches meet
    frame_samples: int
    _parts: list[LogProbs] = field(default_factory=list)
    _start: int = 0  # samples, of the passage
    _last_start: int = 0  # samples, of the last part

    def push(self, heard: Heard) -> Iterator[Passage]:
        """The passages that this stretch completes."""
        log_probs_TV, start = heard.log_probs_TV, heard.start
        if self._parts and heard.overlaps:
            overlap = len(self._parts[-1]) - (start - self._last_start) // self.frame_samples
            before, after = joined_at(self._parts[-1], log_probs_TV, overlap, self.blank_id)
            log_probs_TV, start = log_probs_TV[after:], start + after * self.frame_samples
            self._parts[-1] = self._parts[-1][:before]
            if sum(map(len, self._parts)) + len(log_probs_TV) > self.longest:
                yield self._passage()
        if not self._parts:
            self._start = start
        self._parts.append(log_probs_TV)
        self._last_start = start
        if not heard.continues:
            yield self._passage()

    def _passage(self) -> Passage:
        parts, self._parts = self._parts, []
        return Passage(np.concatenate(parts), self._start)


def joined_at(first_TV: LogProbs, second_TV: LogProbs, overlap: int, blank_id: int) -> tuple[int, int]:
    """Frames of the first to keep, and of the second to leave out.

    The cut lies within the overlap's middle, where the less sure of the two is surest of a blank; the middle
    one of equals.
    """
    overlap = max(0, min(overlap, len(first_TV), len(second_TV)))
    edge = int(overlap * _EDGE_SHARE)
    here = slice(edge, max(overlap - edge, edge + 1))
    tail = first_TV[len(first_TV) - overlap :]
    blank_T = np.minimum(tail[here, blank_id], second_TV[here, blank_id])
    if not len(blank_T):
        return len(first_TV), 0
    best = np.flatnonzero(blank_T >= blank_T.max() - 1e-3)
    cut = edge + int(best[len(best) // 2])
    return len(first_TV) - overlap + cut, cut
