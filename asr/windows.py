"""Long recordings cut into stretches that the acoustic model reads one by one, in bounded memory.

A recording of at most `longest_s` is one stretch: nothing is cut. A longer one is cut at pauses, found by
level alone, so that a stretch is much like the utterances that the model was trained on; its mean spectrum is
taken away by itself, as theirs was. Where nobody pauses, stretches overlap, and `asr.joining` puts their
log-probabilities together again. Long pauses and stretches without sound are left out.

Shapes: N samples, L levels (one every 10 ms).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE, Samples
from asr.levels import mean_power

LEVEL_S = 0.01
_LEVEL_SAMPLES = round(LEVEL_S * SAMPLE_RATE)
_CONTEXT_S = 5.0  # on either side of a moment, in which speech and floor are told apart
_CLEAR_DB = 10.0  # between them; less, and levels cannot tell pauses
_QUIET_SHARE = 0.25  # of the way from the floor to speech: what lies below is quiet
_SILENT_DB = -70.0  # below full scale, at the loudest moment: nothing there can be heard
_FLOOR_DB = -100.0
_SKIPPED_S = 1.5  # of quiet at a stretch's beginning or end: longer, and all but the next line's is left out
_KEPT_S = 0.5
_SKIPPED_DB = 30.0  # below speech: what is left out must be that quiet


@dataclass(frozen=True)
class WindowSettings:
    """How long recordings are cut; the same for the service, the command line and measurements."""

    longest_s: float = 30.0  # of a stretch; shorter recordings are read whole
    shortest_s: float = 3.0  # of a stretch that ends at a pause
    pause_s: float = 0.25  # the shortest that may end a stretch
    clear_pause_s: float = 0.6  # the first of these ends a stretch; without one, the longest pause does
    overlap_s: float = 4.0  # of two stretches where there is no pause between them
    longest_joined_s: float = 120.0  # of overlapping stretches that are decoded together

    def __post_init__(self) -> None:
        if not 0 < self.pause_s <= self.clear_pause_s < self.shortest_s < self.longest_s:
            raise ValueError("need 0 < pause_s <= clear_pause_s < shortest_s < longest_s")
        if not 0 < self.overlap_s <= self.longest_s / 3:
            raise ValueError("overlap_s must be above 0 and at most a third of longest_s")


@dataclass(frozen=True)
class Stretch:
    """A part of a recording."""

    samples: Samples  # (N,)
    start: int  # samples from the beginning of the recording
    overlap: int = 0  # samples shared with the stretch before; 0 where a pause, or nothing, lies between
    continues: bool = False  # the next stretch overlaps this one
    whole: bool = False  # the recording is no longer than this

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


def stretches(pieces: Iterable[Samples], settings: WindowSettings, frame_samples: int) -> Iterator[Stretch]:
    """The recording's stretches in order, taking no more pieces than the next one needs.

    pieces: the recording's samples, see `asr.audio.read_pieces`. frame_samples: of one output frame of the
    acoustic model; overlapping stretches begin a whole number of them apart. A recording that fits is one
    stretch, silent or not; of a longer one, silent stretches are left out. Raises what `pieces` does.
    """
    longest = round(settings.longest_s * SAMPLE_RATE)
    buffer = _Buffer(pieces)
    if not buffer.fill(longest + 1):
        yield Stretch(buffer.take(buffer.size), 0, whole=True)
        return
    start = overlap = 0
    while buffer.size > overlap:
        more = buffer.fill(longest + 1)
        levels_L = level_db(buffer.samples[:longest])
        pauses = pauses_in(levels_L)
        if not overlap and (quiet := leading_quiet(levels_L)):
            buffer.take(quiet)
            start += quiet
            continue
        keep = 0
        if not more:
            cut = buffer.size
        elif (found := pause_cut(pauses, settings, overlap)) is not None:
            cut = found
        else:
            cut = longest
            wanted = round(settings.overlap_s * SAMPLE_RATE)
            keep = longest - (longest - wanted) // frame_samples * frame_samples
        samples = buffer.samples[:cut].copy()
        heard_L = levels_L[: cut // _LEVEL_SAMPLES]
        if keep or overlap or heard_L.max(initial=_FLOOR_DB) >= _SILENT_DB:
            yield Stretch(samples, start, overlap, continues=keep > 0)
        buffer.take(cut - keep)
        start, overlap = start + cut - keep, keep


class _Buffer:
    """Samples read but not yet done with."""

    def __init__(self, pieces: Iterable[Samples]) -> None:
        self._pieces = iter(pieces)
        self.samples: Samples = np.empty(0, dtype=np.float32)

    @property
    def size(self) -> int:
        return len(self.samples)

    def fill(self, size: int) -> bool:
        """Read until `size` samples are there; False when the recording ends before."""
        read, n_samples = [self.samples], self.size
        while n_samples < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            read.append(piece)
            n_samples += len(piece)
        if len(read) > 1:
            self.samples = np.concatenate(read)
        return n_samples >= size

    def take(self, size: int) -> Samples:
        """The first samples; the rest stays."""
        taken, self.samples = self.samples[:size], self.samples[size:]
        return taken


def leading_quiet(levels_L: NDArray[np.float32]) -> int:
    """Samples to leave out where a recording begins, or goes on, with a long pause."""
    pauses = pauses_in(levels_L, _SKIPPED_DB)
    if not pauses or pauses[0][0] > 0 or pauses[0][1] * LEVEL_S <= _SKIPPED_S:
        return 0
    return pauses[0][1] * _LEVEL_SAMPLES - round(_KEPT_S * SAMPLE_RATE)


def pause_cut(
    pauses: Sequence[tuple[int, int]], settings: WindowSettings, begun: int = 0, *, clear_only: bool = False
) -> int | None:
    """Samples to the pause that best ends a stretch: its middle, or shortly after its beginning when it is
    long; None where there is no pause.

    begun: samples at the beginning that belong to the stretch before as well. clear_only: whether only a
    clear pause will do.
    """
    first = (round(settings.shortest_s * SAMPLE_RATE) + begun) // _LEVEL_SAMPLES
    ends = [(a + min((b - a) // 2, round(_KEPT_S / LEVEL_S)), b - a) for a, b in pauses]
    fit = [(cut, length) for cut, length in ends if length * LEVEL_S >= settings.pause_s and cut >= first]
    if not fit:
        return None
    clear = [cut for cut, length in fit if length * LEVEL_S >= settings.clear_pause_s]
    if clear:
        return clear[0] * _LEVEL_SAMPLES
    return None if clear_only else max(fit, key=lambda pause: pause[1])[0] * _LEVEL_SAMPLES


def level_db(samples: Samples) -> NDArray[np.float32]:
    """(L,): mean power of each 10 ms, in dB below full scale."""
    power = mean_power(samples, _LEVEL_SAMPLES)
    levels: NDArray[np.float32] = np.maximum(10 * np.log10(power + 1e-12), _FLOOR_DB).astype(np.float32)
    return levels


def pauses_in(levels_L: NDArray[np.float32], below_db: float = 0.0) -> list[tuple[int, int]]:
    """Quiet runs [a, b) in levels' indices, in order; at least `below_db` below speech.

    Speech is the 90th percentile of the levels around a moment and the floor the 5th, so that a speaker who
    is far away pauses as much as a near one does.
    """
    context = round(_CONTEXT_S / LEVEL_S)
    quiet_L = levels_L <= _SILENT_DB
    for start in range(0, len(levels_L), context):
        around = levels_L[max(0, start - context // 2) : start + context + context // 2]
        floor, speech = np.percentile(around, (5, 90))
        if speech - floor >= _CLEAR_DB:
            limit = min(floor + _QUIET_SHARE * (speech - floor), speech - below_db)
            quiet_L[start : start + context] |= levels_L[start : start + context] <= limit
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet_L.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
