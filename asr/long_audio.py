"""Recordings of any length to words: stretches, an acoustic pass over each, passages, one transcript.

No language model's context crosses the pause that ends a passage: speakers pause between sentences more than
inside them, and the models were trained on sentences. Memory does not grow with the recording beyond its
words: audio is decoded as it is needed, and of a passage nothing is kept but its transcript.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from asr.audio import SAMPLE_RATE, Samples, Source, read_pieces
from asr.decoding.options import DecodingOptions
from asr.decoding.result import Transcript
from asr.errors import DecodingTimeoutError
from asr.joining import Heard, Joiner, Passage
from asr.merging import merged, shifted
from asr.recording import Posteriors, Prepared
from asr.stopwatch import Stopwatch, added_up
from asr.windows import Stretch, WindowSettings, stretches


class Steps(Protocol):
    """What is needed of a Transcriber."""

    @property
    def frame_samples(self) -> int: ...
    @property
    def blank_id(self) -> int: ...
    def prepare_samples(self, samples: Samples, timings_ms: dict[str, float] | None = None) -> Prepared: ...
    def listen_batch(self, batch: Sequence[Prepared]) -> list[Posteriors]: ...
    def decode(
        self, posteriors: Posteriors, options: DecodingOptions, *, deadline: float | None = None
    ) -> Transcript: ...


class PieceReader(Protocol):
    """As `asr.audio.read_pieces`."""

    def __call__(
        self, source: Source, *, max_duration_s: float, on_claim: Callable[[float], None] | None = None
    ) -> Iterator[Samples]: ...


@dataclass(frozen=True)
class Part:
    """A passage's words, where they lie in the recording."""

    start_s: float
    end_s: float
    transcript: Transcript  # its times count from the recording's beginning; it has one hypothesis at least


class LongReader:
    """A recording's stretches, prepared for the acoustic model, and what has been read so far."""

    def __init__(
        self,
        steps: Steps,
        source: Source,
        settings: WindowSettings,
        *,
        max_duration_s: float,
        read: PieceReader = read_pieces,
    ) -> None:
        """read: decodes the recording, here or in another process."""
        self._steps = steps
        self._settings = settings
        self._max_duration_s = max_duration_s
        self._claimed_s = 0.0
        self._pieces = read(source, max_duration_s=max_duration_s, on_claim=self._note_claim)
        self._n_samples = 0

    @property
    def duration_s(self) -> float:
        """Seconds of audio decoded; the recording's length once all is read."""
        return self._n_samples / SAMPLE_RATE

    @property
    def expected_duration_s(self) -> float:
        """What the header claims where that is more than has been decoded: to plan with, never to trust."""
        return max(self.duration_s, self._claimed_s)

    def __iter__(self) -> Iterator[tuple[Stretch, Prepared]]:
        """Raises AudioError."""
        found = stretches(self._counted(), self._settings, self._steps.frame_samples)
        while True:
            stopwatch = Stopwatch()
            with stopwatch.stage("audio"):
                stretch = next(found, None)
            if stretch is None:
                return
            yield stretch, self._steps.prepare_samples(stretch.samples, stopwatch.timings_ms)

    def _note_claim(self, claimed_s: float) -> None:
        self._claimed_s = min(claimed_s, self._max_duration_s)

    def _counted(self) -> Iterator[Samples]:
        for piece in self._pieces:
            self._n_samples += len(piece)
            yield piece


class PassageBuilder:
    """Takes stretches with what was heard in them, in order; gives what can be decoded."""

    def __init__(self, steps: Steps, settings: WindowSettings) -> None:
        self._frame_samples = steps.frame_samples
        longest = round(settings.longest_joined_s * SAMPLE_RATE) // self._frame_samples
        self._joiner = Joiner(steps.blank_id, longest, self._frame_samples)
        self._timings_ms: dict[str, float] = {}
        self._vocab_size = 0  # known once something was heard

    def push(self, stretch: Stretch, posteriors: Posteriors) -> Iterator[tuple[float, Posteriors]]:
        """(start in seconds, log-probabilities) of the passages that this stretch completes."""
        self._timings_ms = added_up([self._timings_ms, posteriors.timings_ms])
        if stretch.whole:
            yield 0.0, posteriors
            return
        self._vocab_size = posteriors.log_probs.shape[1]
        heard = Heard(posteriors.rows, stretch.start, stretch.overlap > 0, stretch.continues)
        for passage in self._joiner.push(heard):
            timings_ms, self._timings_ms = self._timings_ms, {}
            yield passage.start / SAMPLE_RATE, self._posteriors(passage, stretch, timings_ms)

    def _posteriors(self, passage: Passage, last: Stretch, timings_ms: dict[str, float]) -> Posteriors:
        """duration_s: of what the frames cover, and never beyond the audio."""
        rows_TC = passage.log_probs_TV
        end = min(passage.start + len(rows_TC) * self._frame_samples, last.end)
        duration_s = (end - passage.start) / SAMPLE_RATE
        return Posteriors.of_rows(rows_TC, self._vocab_size, duration_s, timings_ms)


def parts(
    steps: Steps,
    reader: LongReader,
    options: DecodingOptions,
    settings: WindowSettings,
    *,
    deadline: float | None = None,
) -> Iterator[Part]:
    """The recording's parts in order, each as soon as it is decoded.

    Raises AudioError, and DecodingTimeoutError after the deadline, on `time.monotonic`'s clock.
    """
    builder = PassageBuilder(steps, settings)
    for stretch, prepared in reader:
        if deadline is not None and time.monotonic() >= deadline:
            raise DecodingTimeoutError("the time for decoding is up")
        (heard,) = steps.listen_batch([prepared.for_decoder(options.decoder)])
        for start_s, posteriors in builder.push(stretch, heard):
            yield part(start_s, steps.decode(posteriors, listed(options), deadline=deadline))


def listed(options: DecodingOptions) -> DecodingOptions:
    """The options with a hypothesis at least, which merging needs."""
    return replace(options, nbest=max(options.nbest, 1))


def part(start_s: float, transcript: Transcript) -> Part:
    """A passage's transcript, whose times count from its beginning, in its place."""
    end_s = start_s + transcript.duration_s
    return Part(start_s, end_s, replace(transcript, words=tuple(shifted(transcript.words, start_s, end_s))))


def whole(
    found: Sequence[Part], options: DecodingOptions, *, duration_s: float, calibrated: bool
) -> Transcript:
    """One transcript of all parts. A recording that was read whole is what its one part is."""
    if len(found) == 1 and found[0].transcript.duration_s == duration_s:
        return replace(found[0].transcript, hypotheses=found[0].transcript.hypotheses[: options.nbest])
    return merged(
        [one.transcript for one in found],
        decoder=options.decoder,
        duration_s=duration_s,
        nbest=options.nbest,
        calibrated=calibrated,
    )
