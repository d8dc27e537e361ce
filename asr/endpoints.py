"""A live stream cut into stretches: each ends at a pause, or when it is as long as it may be."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE, Samples
from asr.windows import LEVEL_S, WindowSettings, leading_quiet, level_db, pause_cut, pauses_in

# Shorter than for files: a stretch is heard again and again while it grows.
STREAM_WINDOWS = WindowSettings(
    longest_s=15.0, shortest_s=0.7, pause_s=0.2, clear_pause_s=0.6, overlap_s=1.0, longest_joined_s=15.0
)
_SEARCHED_S = 4.0  # at the end of a stretch without pauses, for its quietest moment
_SMOOTHED = 10  # levels


@dataclass
class LiveWindow:
    """What has been heard since the last cut."""

    settings: WindowSettings = STREAM_WINDOWS
    start: int = 0  # samples from the stream's beginning
    samples: Samples = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    @property
    def start_s(self) -> float:
        return self.start / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        return (self.start + len(self.samples)) / SAMPLE_RATE

    def push(self, samples: Samples) -> None:
        self.samples = np.concatenate([self.samples, samples])

    def room(self) -> int:
        """Samples that can be pushed until a cut is due at the latest."""
        return max(0, round(self.settings.longest_s * SAMPLE_RATE) - len(self.samples))

    def cut(self) -> int | None:
        """Samples that are complete and can be taken; None while the speaker may go on.

        Quiet before speech is left out at once.
        """
        levels_L = level_db(self.samples)
        if quiet := leading_quiet(levels_L):
            self.take(quiet)
            return self.cut()
        pauses = pauses_in(levels_L)
        clear = pause_cut(pauses, self.settings, clear_only=True)
        if clear is not None or self.room() > 0:
            return clear
        found = pause_cut(pauses, self.settings)
        return _quietest(levels_L) if found is None else found

    def take(self, size: int) -> Samples:
        """The first samples, which are not part of the window any more."""
        taken, self.samples = self.samples[:size], self.samples[size:]
        self.start += size
        return taken


def _quietest(levels_L: NDArray[np.float32]) -> int:
    """Samples to the quietest tenth of a second near the end."""
    smooth_L = np.convolve(levels_L, np.ones(_SMOOTHED) / _SMOOTHED, mode="valid")
    first = max(0, len(smooth_L) - round(_SEARCHED_S / LEVEL_S))
    middle = first + int(smooth_L[first:].argmin()) + _SMOOTHED // 2
    return round(middle * LEVEL_S * SAMPLE_RATE)
