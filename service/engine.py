"""What every endpoint calls to turn a recording into words, and the only one that gives work to the models.

    answer = await engine.transcribe(source, options, caller_left=…)

A recording is let in (`service.admission`) and makes its way (`service.journey`) through the workshop's
stages. Everything that `transcribe` accepts ends: with its answer, its exception, or one of this package's
errors when its time is up or its caller leaves; no step begins for it after that.
"""

import asyncio
from collections.abc import Awaitable, Callable

from asr.audio import Source, count_channels, read_pieces
from asr.decoding.options import DecodingOptions
from asr.long_audio import Part
from service.admission import Admission
from service.audio_pool import AudioPool
from service.errors import CallerLeftError, TimedOutError
from service.expectation import Expectation
from service.journey import Answer, House, Journey
from service.metrics import Metrics
from service.settings import Settings
from service.speech import Readiness
from service.stages import Stages
from service.traces import Traces
from service.workshop import Workshop


class Engine:
    """Transcribes for all endpoints."""

    def __init__(
        self, settings: Settings, readiness: Readiness, metrics: Metrics, traces: Traces | None = None
    ) -> None:
        self._settings = settings
        self._readiness = readiness
        self._metrics = metrics
        threads, expectation, stages = settings.threads, Expectation(), Stages(settings)
        self._admission = Admission(
            budget_s=settings.max_queued_s,
            max_unmeasured=settings.max_uploads,
            latency_target_s=settings.latency_target_s,
            threads=threads,
            expectation=expectation,
            metrics=metrics,
        )
        batch_wait_s = settings.batch_wait_ms / 1000
        self._workshop = Workshop(stages.in_order, threads + stages.spare, batch_wait_s, metrics)
        self._audio = AudioPool(threads + stages.spare, on_death=metrics.decoder_deaths.inc)
        read = self._audio.read_pieces if settings.isolate_audio else read_pieces
        self._house = House(stages, self._workshop, self._admission, expectation, metrics, read, traces)
        self._open: set[asyncio.Future[Answer]] = set()

    def check_room(self, uploading: int = 0) -> None:
        """Raises NotReadyError, BusyError or StoppingError when `transcribe` would.

        uploading: recordings that are being received and will be passed on.
        """
        if self._readiness.reasons:
            self._metrics.rejected.labels("not_ready").inc()
        _ = self._readiness.speech
        self._admission.check_room(uploading)

    async def transcribe(
        self,
        source: Source,
        options: DecodingOptions,
        *,
        caller_left: Callable[[], Awaitable[None]] | None = None,
        timeout_s: float | None = None,
        max_duration_s: float | None = None,
        degrade: bool = True,
        on_part: Callable[[Part], None] | None = None,
    ) -> Answer:
        """The words of a recording of any length.

        caller_left: returns when nobody wants the answer any more; cancelling this has the same effect.
        timeout_s: from now, waiting included. max_duration_s: of the recording. Both None: the settings'.
        degrade: whether a lesser decoder may be used under pressure. on_part: told of each part of a long
        recording, on any thread, as soon as it is decoded. Raises NotReadyError, BusyError, StoppingError,
        TimedOutError, CallerLeftError; OptionsError for an n-gram that there is not; and what the Transcriber
        raises.
        """
        speech = self._readiness.speech
        speech.check(options)
        settings = self._settings
        timeout_s = settings.timeout_s if timeout_s is None else timeout_s
        ticket = self._admission.enter(options.decoder)
        journey = Journey(
            self._house,
            speech,
            ticket,
            options,
            deadline=ticket.arrived + timeout_s,
            degrade=degrade,
            on_part=on_part,
        )
        limit_s = settings.max_duration_s if max_duration_s is None else max_duration_s
        way = asyncio.ensure_future(journey.run(source, limit_s))
        self._open.add(way)
        leaving = asyncio.ensure_future(_never() if caller_left is None else caller_left())
        try:
            await asyncio.wait({way, leaving}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if way.done():
                return way.result()
            if leaving.done():
                raise CallerLeftError("the caller closed the connection")
            raise TimedOutError(f"no result within {timeout_s:g} s")
        finally:
            if not way.done():
                self._metrics.cancelled.inc()
            leaving.cancel()
            way.cancel()
            self._open.discard(way)
            self._admission.leave(ticket)

    def warm(self) -> None:
        """Start what would make the first recording wait."""
        if self._settings.isolate_audio:
            self._audio.warm()

    async def count_channels(self, source: Source) -> int:
        """Of a recording. Raises AudioError."""
        count = self._audio.count_channels if self._settings.isolate_audio else count_channels
        return await asyncio.to_thread(count, source)

    def stop_admitting(self) -> None:
        """Refuse what comes from now on; what was let in goes on."""
        self._admission.stopping = True

    async def close(self) -> None:
        """Refuse what comes, finish what was let in, let the threads go."""
        self.stop_admitting()
        while self._open:
            await asyncio.wait(self._open)
            await asyncio.sleep(0)  # those who wait for them take their answers and close their tickets
        await self._workshop.close()
        await asyncio.to_thread(self._audio.close)


async def _never() -> None:
    await asyncio.Event().wait()
