"""Recordings of any length to words: stretches, an acoustic pass over each, passages, one transcript.

No language model's context crosses the pause that ends a passage: speakers pause between sentences more than
inside them, and the models were trained on sentences. Where they say that a sentence goes on over the pause,
its two passages are heard and decoded anew, as one (`asr.sentences`). Memory does not grow with the recording
beyond its words: audio is decoded as it is needed, and of a passage nothing is kept but its transcript.
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
from asr.sentences import as_one, fit_together
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
    def goes_on(
        self, before: Transcript, after: Transcript, pause_s: float, options: DecodingOptions
    ) -> bool: ...


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


@dataclass(frozen=True)
class Decoded:
    """A passage's words, while the next passage may still turn out to be the rest of its sentence."""

    stretch: Stretch  # the passage's last
    start_s: float  # of the passage, from the recording's beginning
    posteriors: Posteriors
    transcript: Transcript  # its times count from the passage's beginning; it has one hypothesis at least

    @property
    def part(self) -> Part:
        end_s = self.start_s + self.transcript.duration_s
        words = tuple(shifted(self.transcript.words, self.start_s, end_s))
        return Part(self.start_s, end_s, replace(self.transcript, words=words))


def parts(
    steps: Steps,
    reader: LongReader,
    options: DecodingOptions,
    settings: WindowSettings,
    *,
    deadline: float | None = None,
) -> Iterator[Part]:
    """The recording's parts in order, each as soon as it is decoded and its sentence known not to go on.

    Raises AudioError, and DecodingTimeoutError after the deadline, on `time.monotonic`'s clock.
    """
    builder = PassageBuilder(steps, settings)
    last: Decoded | None = None
    for stretch, prepared in reader:
        if deadline is not None and time.monotonic() >= deadline:
            raise DecodingTimeoutError("the time for decoding is up")
        (heard,) = steps.listen_batch([prepared.for_decoder(options.decoder)])
        for start_s, posteriors in builder.push(stretch, heard):
            if last is not None and not may_go_on(last, stretch, options, settings):
                yield last.part
                last = None
            transcript = steps.decode(posteriors, listed(options), deadline=deadline)
            one = Decoded(stretch, start_s, posteriors, transcript)
            if last is not None:
                if (sentence := continued(steps, last, one, options)) is None:
                    yield last.part
                else:
                    (heard,) = steps.listen_batch([sentence[1].for_decoder(options.decoder)])
                    transcript = steps.decode(heard, listed(options), deadline=deadline)
                    one = together(last, one, sentence[0], heard, transcript)
            last = one
    if last is not None:
        yield last.part


def may_go_on(before: Decoded, stretch: Stretch, options: DecodingOptions, settings: WindowSettings) -> bool:
    """Whether the next stretch may be the rest of a passage's sentence. If not, its words are final."""
    return options.decoder != "greedy" and fit_together(before.stretch, stretch, settings.longest_s)


def continued(
    steps: Steps, before: Decoded, after: Decoded, options: DecodingOptions
) -> tuple[Stretch, Prepared] | None:
    """Both passages as one stretch, to be heard and decoded anew; None where they are not one sentence."""
    if not steps.goes_on(before.transcript, after.transcript, before.stretch.pause_s, options):
        return None
    stretch = as_one(before.stretch, after.stretch)
    return stretch, steps.prepare_samples(stretch.samples)


def together(
    before: Decoded, after: Decoded, stretch: Stretch, posteriors: Posteriors, transcript: Transcript
) -> Decoded:
    """Two passages that were heard and decoded as one; their own times were spent, too."""
    spent = [before.transcript.timings_ms, after.transcript.timings_ms, transcript.timings_ms]
    transcript = replace(transcript, timings_ms=added_up(spent))
    return Decoded(stretch, stretch.start / SAMPLE_RATE, posteriors, transcript)


def listed(options: DecodingOptions) -> DecodingOptions:
    """The options with a hypothesis at least, which merging needs."""
    return replace(options, nbest=max(options.nbest, 1))


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
