"""Recordings with known word boundaries, for measuring word times: utterances joined one after another.

Where an utterance begins and ends in the joined recording is known to the sample, but it does not speak
from its first sample to its last. So a boundary is where its energy rises and falls: levels are taken every
10 ms over 25 ms; the floor is the 10th percentile, the speech level the 95th; loud is what lies above the
floor by 40 % of the way to the speech level (in dB). Loud stretches less than 0.15 s apart (closures of
plosives) are joined, and those that are still shorter than 0.2 s dropped (clicks and breaths before and
after speech): the speech begins with the first that is left, and ends with the last. Utterances whose two
levels are less than 25 dB apart are left out, as noise hides their edges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.audio import SAMPLE_RATE, read_audio
from training.manifest import Utterance, read_bytes

HOP_S = 0.01
WINDOW_S = 0.025
CLEAR_DB = 25.0  # between floor and speech
ONSET_SHARE = 0.4  # of the way from floor to speech
BRIDGED_S = 0.15  # between loud stretches
SHORTEST_S = 0.2  # of a stretch of speech
MAX_DURATION_S = 60.0  # of an utterance


@dataclass(frozen=True)
class Joined:
    """Some utterances one after another, without a gap."""

    samples: NDArray[np.float32]  # 16 kHz mono
    texts: tuple[str, ...]  # of each utterance
    starts_s: tuple[float, ...]  # where each one's speech begins, from the recording's start
    ends_s: tuple[float, ...]  # and where it ends

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def speech_edges(samples: NDArray[np.float32]) -> tuple[float, float] | None:
    """Seconds at which speech begins and ends; None where the recording is not clear enough to say."""
    hop, window = round(HOP_S * SAMPLE_RATE), round(WINDOW_S * SAMPLE_RATE)
    if len(samples) < window:
        return None
    squares = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    starts = np.arange(0, len(samples) - window + 1, hop)
    levels_db = 10 * np.log10((squares[starts + window] - squares[starts]) / window + 1e-10)
    floor, speech = np.percentile(levels_db, (10, 95))
    if speech - floor < CLEAR_DB:
        return None
    loud = np.flatnonzero(levels_db > floor + ONSET_SHARE * (speech - floor))
    stretches = np.split(loud, np.flatnonzero(np.diff(loud) > round(BRIDGED_S / HOP_S)) + 1)
    long = [s for s in stretches if len(s) and (s[-1] - s[0] + 1) * HOP_S >= SHORTEST_S]
    if not long:
        return None
    middle = WINDOW_S / 2
    return float(long[0][0] * HOP_S + middle), float(long[-1][-1] * HOP_S + middle)


def join(utterances: Sequence[Utterance], size: int) -> Iterator[Joined]:
    """Recordings of `size` clear utterances each, in the order given; a rest of fewer is left out.

    Raises AudioError and OSError as reading does.
    """
    pieces: list[tuple[NDArray[np.float32], str, float, float]] = []
    for utterance in utterances:
        samples = read_audio(read_bytes(utterance), max_duration_s=MAX_DURATION_S)
        edges = speech_edges(samples)
        if edges is None or not utterance.text:
            continue
        pieces.append((samples, utterance.text, *edges))
        if len(pieces) == size:
            yield _joined(pieces)
            pieces = []


def _joined(pieces: Sequence[tuple[NDArray[np.float32], str, float, float]]) -> Joined:
    offsets_s = np.cumsum([0] + [len(samples) for samples, *_ in pieces]) / SAMPLE_RATE
    return Joined(
        samples=np.concatenate([samples for samples, *_ in pieces]),
        texts=tuple(text for _, text, *_ in pieces),
        starts_s=tuple(float(o + start) for o, (_, _, start, _) in zip(offsets_s, pieces, strict=False)),
        ends_s=tuple(float(o + end) for o, (*_, end) in zip(offsets_s, pieces, strict=False)),
    )
