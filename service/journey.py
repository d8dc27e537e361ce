"""One recording's way through the house, step by step."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from asr.audio import SAMPLE_RATE, Source
from asr.decoding.options import DecoderName, DecodingOptions
from asr.decoding.result import Transcript
from asr.long_audio import (
    Decoded,
    LongReader,
    Part,
    PassageBuilder,
    PieceReader,
    listed,
    may_go_on,
    together,
    whole,
)
from asr.recording import Posteriors, Prepared
from asr.windows import Stretch
from service.admission import Admission, Ticket
from service.expectation import Expectation, search_of
from service.metrics import Metrics
from service.speech import Speech
from service.stages import Finishing, Hearing, Joining, Rescoring, Search, Stages, next_of
from service.traces import Traces
from service.workshop import Done, Item, Result, Stage, Workshop


@dataclass(frozen=True)
class House:
    """What all recordings share."""

    stages: Stages
    workshop: Workshop
    admission: Admission
    expectation: Expectation
    metrics: Metrics
    read: PieceReader
    traces: Traces | None = None


@dataclass(frozen=True)
class Answer:
    """A transcript and how it came about."""

    transcript: Transcript
    asked: DecoderName  # the transcript has what was used
    degraded: str  # why that is a lesser one; empty where it is not
    waited_s: float  # for threads, all steps together


class Journey:
    """Of a recording that was let in."""

    def __init__(
        self,
        house: House,
        speech: Speech,
        ticket: Ticket,
        options: DecodingOptions,
        *,
        deadline: float,
        degrade: bool,
        on_part: Callable[[Part], None] | None,
    ) -> None:
        self._house = house
        self._speech = speech
        self._ticket = ticket
        self._options = options
        self._deadline = deadline
        self._may_degrade = degrade
        self._on_part = on_part
        self._degraded = ""
        self._whole = False  # the recording is short: it takes each step once

    async def run(self, source: Source, max_duration_s: float) -> Answer:
        """The answer. Raises AudioError, BusyError when it does not fit in, and what the decoders raise."""
        traces = self._house.traces
        if traces is None:
            return await self._run(source, max_duration_s)
        with traces.span("transcribe", **{"asr.decoder_asked": self._ticket.asked}) as span:
            answer = await self._run(source, max_duration_s)
            span.set_attribute("asr.decoder", answer.transcript.decoder)
            span.set_attribute("asr.audio_s", round(answer.transcript.duration_s, 3))
            return answer

    async def _run(self, source: Source, max_duration_s: float) -> Answer:
        stages, speech, ticket = self._house.stages, self._speech, self._ticket
        reader = LongReader(
            speech, source, speech.windows, max_duration_s=max_duration_s, read=self._house.read
        )
        builder = PassageBuilder(speech, speech.windows)
        read = next_of(iter(reader))
        found: list[Part] = []
        last: Decoded | None = None
        waited_before_s = 0.0
        one = await self._do(stages.read, read, speech.windows.longest_s)
        while one is not None:
            stretch, prepared = one
            if ticket.duration_s is None:
                self._whole = stretch.whole
                ticket.steps_done = int(stretch.whole)
                self._house.admission.measure(ticket, reader.expected_duration_s)
                waited_before_s = ticket.waited_s
            self._house.metrics.observe_audio(prepared)
            heard = await self._hear(prepared)
            for start_s, posteriors in builder.push(stretch, heard):
                if last is not None and not may_go_on(last, stretch, self._options, speech.windows):
                    found.append(await self._told(last))
                    last = None
                transcript = await self._decode(posteriors, first=not found and last is None)
                newest = Decoded(stretch, start_s, posteriors, transcript)
                if last is not None:
                    newest, ended = await self._continued(last, newest)
                    if ended:
                        found.append(await self._told(last))
                last = newest
                self._house.admission.progress(ticket, last.part.end_s, reader.duration_s)
            one = None if stretch.whole else await self._do(stages.read, read, _length_s(stretch))
        if last is not None:
            found.append(await self._told(last))
        if ticket.duration_s is None:
            self._house.admission.measure(ticket, reader.duration_s)
        transcript = whole(
            found,
            self._options,
            duration_s=reader.duration_s,
            calibrated=speech.is_calibrated(self._options),
        )
        self._house.metrics.observe(transcript, ticket.asked, ticket.waited_s)
        self._house.metrics.wait_error.observe(ticket.predicted_s - (ticket.waited_s - waited_before_s))
        return Answer(transcript, ticket.asked, self._degraded, ticket.waited_s)

    async def _hear(self, prepared: Prepared) -> Posteriors:
        hearing = Hearing(self._speech, prepared.for_decoder(self._options.decoder))
        return await self._do(
            self._house.stages.hear, hearing, prepared.duration_s, size=len(prepared.features)
        )

    async def _continued(self, before: Decoded, after: Decoded) -> tuple[Decoded, bool]:
        """Both as one where they are one sentence; else the second, and that the first has ended."""
        joining = Joining(self._speech, before, after, self._options)
        seconds = after.transcript.duration_s
        sentence = await self._do(self._house.stages.join, joining, seconds)
        if sentence is None:
            return after, True
        stretch, prepared = sentence
        heard = await self._hear(prepared)
        transcript = await self._decode(heard, first=False)
        return together(before, after, stretch, heard, transcript), False

    async def _told(self, decoded: Decoded) -> Part:
        """A passage whose words will not change any more."""
        signs = self._speech.signs(decoded.posteriors, decoded.transcript)
        self._house.metrics.observe_signs(signs)
        if self._on_part is not None:
            await asyncio.to_thread(self._on_part, decoded.part)
        return decoded.part

    async def _decode(self, posteriors: Posteriors, *, first: bool) -> Transcript:
        """A passage's words. The first passage's decoder is the whole recording's."""
        stages, speech, seconds = self._house.stages, self._speech, posteriors.duration_s
        if first:
            self._keep_within_means()
        search = Search(speech, posteriors, self._options, self._deadline)
        if self._whole and self._options.decoder == "greedy":
            found = self._do_here(stages.search, search, seconds)
        else:
            found = await self._do(stages.search, search, seconds)
        if first:
            self._keep_within_means()
        if self._options.decoder == "beam_lm_rescore":
            budget_s = self._options.rescore_budget_s
            rescoring = Rescoring(speech, found, budget_s, self._deadline)
            found = await self._do(stages.rescore, rescoring, seconds, alone=budget_s is not None)
        options = listed(self._options)
        if options.word_timestamps:
            transcript = await self._do(stages.finish, Finishing(speech, posteriors, found, options), seconds)
        else:  # nothing is computed
            transcript = speech.finish(posteriors, found, options)
        return transcript

    def _keep_within_means(self) -> None:
        """Step down to the decoder that the queue allows."""
        if not self._may_degrade:
            return
        ticket = self._ticket
        decoder, why = self._house.admission.affordable(ticket, self._options)
        if decoder != ticket.decoder:
            ticket.decoder, self._degraded = decoder, why
            self._options = replace(self._options, decoder=decoder)

    async def _do(
        self,
        stage: Stage[Item, Result],
        item: Item,
        audio_s: float,
        *,
        size: float = 0.0,
        alone: bool = False,
    ) -> Result:
        """One step over so many seconds of audio, its waiting and its work entered in the books."""
        begun_ns = time.time_ns()
        done: Done[Result] = await self._house.workshop.do(
            stage, item, urgency=self._ticket.date, size=size, alone=alone
        )
        self._enter(stage, done, audio_s, begun_ns)
        return done.result

    def _do_here(self, stage: Stage[Item, Result], item: Item, audio_s: float) -> Result:
        """A step that takes less than handing it to a thread: half a millisecond at the most."""
        begun_ns, started = time.time_ns(), time.monotonic()
        (result,) = stage.work([item])
        self._enter(stage, Done(result, 0.0, time.monotonic() - started), audio_s, begun_ns)
        return result

    def _enter(self, stage: Stage[Item, Result], done: Done[Result], audio_s: float, begun_ns: int) -> None:
        """A step is done: the books. begun_ns: when it came, Unix time."""
        ticket, traces = self._ticket, self._house.traces
        if traces is not None:
            traces.step(stage.name, done.waited_s, begun_ns, audio_s)
        ticket.waited_s += done.waited_s
        if self._whole:
            ticket.steps_done += 1
        step = search_of(ticket.decoder) if stage is self._house.stages.search else stage.name
        self._house.expectation.learn(step, done.worked_s, audio_s)


def _length_s(stretch: Stretch) -> float:
    return len(stretch.samples) / SAMPLE_RATE
