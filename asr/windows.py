"""Long recordings cut into stretches that the acoustic model reads one by one, in bounded memory.

A recording of at most `longest_s` is one stretch: nothing is cut. A longer one is cut at pauses, found by
level alone, so that a stretch is much like the utterances that the model was trained on: one sentence by one
speaker. Its mean spectrum is taken away by itself, as theirs was. Where nobody pauses, stretches overlap, and
`asr.joining` puts their log-probabilities together again. Long pauses and stretches without sound are left
out.

Shapes: N samples, L levels (one every 10 ms).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE, Samples
from asr.levels import mean_power
from asr.room_change import change_in

LEVEL_S = 0.01
_LEVEL_SAMPLES = round(LEVEL_S * SAMPLE_RATE)
# Around a moment, in which speech and floor are told apart. The shorter is for a speaker between others whose
# rooms are quieter than his.
_CONTEXTS_S = (10.0, 4.0)
_CLEAR_DB = 10.0  # between them; less, and levels cannot tell pauses
_QUIET_SHARE = 0.35  # of the way from the floor to speech: what lies below is quiet
_SILENT_DB = -70.0  # below full scale, at the loudest moment: nothing there can be heard
_FLOOR_DB = -100.0
_SKIPPED_S = 1.5  # of quiet at a stretch's beginning or end: longer, and all but the next line's is left out
_KEPT_S = 0.5
_CLICK_S = 0.06  # within a pause: no sound of speech is so short between two of them
_GAIN_S = 0.1  # a pause longer by this is a unit of cost
_MOST_GAINED = 3.0  # units
_SKIPPED_DB = 30.0  # below speech: what is left out must be that quiet


@dataclass(frozen=True)
class WindowSettings:
    """How long recordings are cut; the same for the service, the command line and measurements."""

    longest_s: float = 30.0  # of a stretch; shorter recordings are read whole
    shortest_s: float = 1.5  # of a stretch that ends at a pause
    usual_s: float = 10.0  # a longer stretch is cut at shorter pauses
    pause_s: float = 0.1  # the shortest that may end a stretch
    clear_pause_s: float = 0.3  # one that ends a stretch, unless a longer one is near
    overlap_s: float = 4.0  # of two stretches where there is no pause between them
    longest_joined_s: float = 120.0  # of overlapping stretches that are decoded together

    def __post_init__(self) -> None:
        if not 0 < self.pause_s <= self.clear_pause_s < self.shortest_s < self.longest_s:
            raise ValueError("need 0 < pause_s <= clear_pause_s < shortest_s < longest_s")
        if self.usual_s <= 0:
            raise ValueError("usual_s must be above 0")
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
    pause_s: float = 0.0  # of quiet around its end, in which it was cut; 0 where it was not cut in a pause

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
        if not overlap and (quiet := leading_quiet(levels_L)):
            buffer.take(quiet)
            start += quiet
            continue
        keep, pause_s = 0, 0.0
        if (pause := next_pause(levels_L, settings, overlap, more=more)) is not None:
            cut, pause_s = cut_in(buffer.samples, pause), (pause[1] - pause[0]) * LEVEL_S
        elif more:
            cut = longest
            wanted = round(settings.overlap_s * SAMPLE_RATE)
            keep = longest - (longest - wanted) // frame_samples * frame_samples
        else:
            buffer.drop(trailing_quiet(levels_L))
            cut = buffer.size
        samples = buffer.samples[:cut].copy()
        heard_L = levels_L[: cut // _LEVEL_SAMPLES]
        if keep or overlap or heard_L.max(initial=_FLOOR_DB) >= _SILENT_DB:
            yield Stretch(samples, start, overlap, continues=keep > 0, pause_s=pause_s)
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
        found = [piece for piece in read if len(piece)]
        if found:
            self.samples = found[0] if len(found) == 1 else np.concatenate(found)
        return n_samples >= size

    def take(self, size: int) -> Samples:
        """The first samples; the rest stays."""
        taken, self.samples = self.samples[:size], self.samples[size:]
        return taken

    def drop(self, size: int) -> None:
        """Leave out the last samples."""
        self.samples = self.samples[: self.size - size]


def leading_quiet(levels_L: NDArray[np.float32]) -> int:
    """Samples to leave out where a recording begins, or goes on, with a long pause."""
    pauses = pauses_in(levels_L, _SKIPPED_DB)
    if not pauses or pauses[0][0] > 0 or pauses[0][1] * LEVEL_S <= _SKIPPED_S:
        return 0
    return pauses[0][1] * _LEVEL_SAMPLES - round(_KEPT_S * SAMPLE_RATE)


def trailing_quiet(levels_L: NDArray[np.float32]) -> int:
    """Samples to leave out where a recording ends with a long pause."""
    quiet = len(levels_L) - _end_of_sound(pauses_in(levels_L, _SKIPPED_DB), len(levels_L))
    return quiet * _LEVEL_SAMPLES - round(_KEPT_S * SAMPLE_RATE) if quiet * LEVEL_S > _SKIPPED_S else 0


def next_pause(
    levels_L: NDArray[np.float32], settings: WindowSettings, begun: int = 0, *, more: bool = True
) -> tuple[int, int] | None:
    """The pause, in levels, that ends the next stretch; None where nobody pauses, or at the end.

    Of all ways to cut the audio at its pauses the one is taken that costs least, and its first cut is the
    answer. A pause shorter than `clear_pause_s` costs something, a longer one is a gain, and a stretch costs
    more the longer it is beyond `usual_s`.

    begun: samples at the beginning that belong to the stretch before as well. more: whether the recording
    goes on after the levels; where it does not, nothing but quiet is no stretch.
    """
    pauses, end = _without_clicks(pauses_in(levels_L)), len(levels_L)
    last = end if more else _end_of_sound(pauses, end) - round(settings.shortest_s / LEVEL_S)
    first = begun // _LEVEL_SAMPLES + round(settings.shortest_s / LEVEL_S)
    fit = {
        _cut_in(a, b): (a, b)
        for a, b in pauses
        if (b - a) * LEVEL_S >= settings.pause_s and first <= _cut_in(a, b) <= last
    }
    cuts = cheapest_cuts([(cut, (b - a) * LEVEL_S) for cut, (a, b) in fit.items()], end, settings)
    return fit.get(cuts[0])


def _without_clicks(pauses: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pauses with nothing but a click between them as one."""
    found: list[tuple[int, int]] = []
    for a, b in pauses:
        if found and (a - found[-1][1]) * LEVEL_S <= _CLICK_S:
            found[-1] = (found[-1][0], b)
        else:
            found.append((a, b))
    return found


def cut_in(samples: Samples, pause: tuple[int, int]) -> int:
    """Samples to where a pause, in levels, is cut: where its own sound changes, else as it was planned."""
    a, b = pause
    if (b - a) * LEVEL_S <= _SKIPPED_S:
        change = change_in(samples[a * _LEVEL_SAMPLES : b * _LEVEL_SAMPLES])
        if change is not None:
            return a * _LEVEL_SAMPLES + change
    return _cut_in(a, b) * _LEVEL_SAMPLES


def cheapest_cuts(pauses: Sequence[tuple[int, float]], end: int, settings: WindowSettings) -> list[int]:
    """Where stretches of `end` levels end, the last one included.

    pauses: where one could be cut, in levels, and its length in seconds.
    """
    at = [0, *(cut for cut, _ in pauses), end]
    gains = [0.0, *(_gain(length_s, settings) for _, length_s in pauses), 0.0]
    costs, before = [0.0], [0]
    for j in range(1, len(at)):
        ways = [
            (costs[i] - gains[j] + _cost((at[j] - at[i]) * LEVEL_S, settings, last=j == len(at) - 1), i)
            for i in range(j)
        ]
        costs.append(min(ways)[0])
        before.append(min(ways)[1])
    cuts, j = [], len(at) - 1
    while j:
        cuts.append(at[j])
        j = before[j]
    return cuts[::-1]


def _gain(pause_s: float, settings: WindowSettings) -> float:
    """Of a cut in a pause of that length."""
    return min((pause_s - settings.clear_pause_s) / _GAIN_S, _MOST_GAINED)


def _cost(length_s: float, settings: WindowSettings, *, last: bool) -> float:
    """Of a stretch of that length. last: it may go on."""
    if length_s < settings.shortest_s and not last:
        return math.inf
    return (max(0.0, length_s - settings.usual_s) / (settings.usual_s / 2)) ** 2


def _end_of_sound(pauses: Sequence[tuple[int, int]], end: int) -> int:
    """Where the last pause begins, if it is what `end` levels end with."""
    return pauses[-1][0] if pauses and pauses[-1][1] == end else end


def _cut_in(a: int, b: int) -> int:
    """Where to cut in a pause of levels [a, b): its middle, or soon after its beginning when it is long."""
    return a + min((b - a) // 2, round(_KEPT_S / LEVEL_S))


def pause_cut(
    pauses: Sequence[tuple[int, int]], settings: WindowSettings, *, clear_only: bool = False
) -> int | None:
    """Samples to the pause that ends a live window: the first clear one, else the longest; None where there
    is no pause. clear_only: whether only a clear pause will do.
    """
    first = round(settings.shortest_s / LEVEL_S)
    ends = [(_cut_in(a, b), b - a) for a, b in pauses]
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
    quiet_L = levels_L <= _SILENT_DB
    for context_s in _CONTEXTS_S:
        quiet_L |= _quiet(levels_L, round(context_s / LEVEL_S), below_db)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet_L.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _quiet(levels_L: NDArray[np.float32], context: int, below_db: float) -> NDArray[np.bool_]:
    """(L,): whether a level is quiet among the `context` levels around it."""
    quiet_L = np.zeros(len(levels_L), dtype=bool)
    block = context // 2
    for start in range(0, len(levels_L), block):
        around = levels_L[max(0, start - block // 2) : start + block + block // 2]
        floor, speech = np.percentile(around, (5, 90))
        if speech - floor >= _CLEAR_DB:
            limit = min(floor + _QUIET_SHARE * (speech - floor), speech - below_db)
            quiet_L[start : start + block] = levels_L[start : start + block] <= limit
    return quiet_L
