"""What every endpoint calls to turn a recording into words."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asr.audio import Source
from asr.decoding.options import DecodingOptions
from asr.decoding.result import Transcript
from asr.long_audio import Part
from service.metrics import Metrics
from service.settings import Settings
from service.speech import Readiness
from service.worker import WorkerPool


@dataclass(frozen=True)
class Answer:
    """A transcript and how it came about."""

    transcript: Transcript
    waited_s: float  # for a place to be worked on


class Engine:
    """Transcribes for all endpoints; the only one that gives work to the models."""

    def __init__(self, settings: Settings, readiness: Readiness, metrics: Metrics) -> None:
        self._settings = settings
        self._readiness = readiness
        self._metrics = metrics
        self._pool = WorkerPool(settings.workers, settings.max_queued, metrics)

    def check_room(self) -> None:
        """Raises NotReadyError, BusyError or StoppingError when `transcribe` would."""
        _ = self._readiness.speech
        self._pool.check_room()

    async def transcribe(
        self,
        source: Source,
        options: DecodingOptions,
        *,
        caller_left: Callable[[], Awaitable[None]],
        timeout_s: float | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Answer:
        """The words of a recording.

        caller_left: returns when nobody wants the answer any more. timeout_s: from now, waiting included;
        None: the settings'. on_part: told of each part of a long recording, on any thread. Raises
        NotReadyError, BusyError, StoppingError, TimedOutError, CallerLeftError; and what the Transcriber
        raises.
        """
        speech = self._readiness.speech
        max_duration_s = self._settings.max_duration_s

        def work(seconds_left: float) -> Transcript:
            return speech.transcribe(
                source, options, max_duration_s=max_duration_s, timeout_s=seconds_left, on_part=on_part
            )

        done = await self._pool.run(
            work,
            timeout_s=self._settings.timeout_s if timeout_s is None else timeout_s,
            caller_left=caller_left,
        )
        self._metrics.observe(done.result)
        return Answer(done.result, done.waited_s)

    async def close(self) -> None:
        """Refuse new work, end what waits, and wait for what runs."""
        await self._pool.close()
