"""Works through the jobs, a few at a time, by the same engine as everybody else."""

import asyncio
import logging
from dataclasses import dataclass

from asr.audio import AudioFile
from asr.long_audio import Part
from service.engine import Engine
from service.errors import (
    BusyError,
    NotReadyError,
    RefusedError,
    StoppingError,
    error_detail,
)
from service.job_store import Job, JobStore
from service.journey import Answer
from service.recording import channels_of
from service.schemas import TranscribeResponse
from service.speech import Readiness

PAUSE_S = 1.0  # before looking again, where the service is full or not ready
LOOK_S = 10.0  # for jobs, if nobody says that there is one

log = logging.getLogger(__name__)


class _NobodyWantsItError(RefusedError):
    """The job was deleted."""


@dataclass
class JobRunner:
    """Runs while the application does."""

    store: JobStore
    engine: Engine
    readiness: Readiness
    at_once: int
    timeout_s: float

    def __post_init__(self) -> None:
        self._came = asyncio.Event()
        self._unwanted: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.at_once)]

    async def stop(self) -> None:
        """What is running waits for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def look(self) -> None:
        """There is a new job."""
        self._came.set()

    def drop(self, job_id: str) -> None:
        """Nobody wants this job any more."""
        if job_id in self._unwanted:
            self._unwanted[job_id].set()

    async def _work(self) -> None:
        while True:
            self._came.clear()
            job = None if self.readiness.reasons else await asyncio.to_thread(self.store.take)
            if job is None:
                await self._wait(PAUSE_S if self.readiness.reasons else LOOK_S)
            else:
                await self._run(job)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._came.wait()
        except TimeoutError:
            pass

    async def _run(self, job: Job) -> None:
        """One job, to its end or back into the queue; nothing that it raises gets out."""
        unwanted = self._unwanted[job.id] = asyncio.Event()
        try:
            answers = [
                await self._transcribe(one, job, unwanted)
                for one in await channels_of(
                    self.engine, AudioFile(self.store.file(job.id), job.wish.raw), job.wish.channels
                )
            ]
            body = TranscribeResponse.of_channels(
                answers, self.readiness.speech, job.id, job.wish.channels
            ).model_dump()
            audio_s = sum(answer.transcript.duration_s for answer in answers)
            await asyncio.to_thread(self.store.finish, job.id, body, audio_s)
        except asyncio.CancelledError:
            self.store.put_back(job.id, was_tried=False)
            raise
        except (BusyError, NotReadyError, StoppingError):
            await asyncio.to_thread(self.store.put_back, job.id, was_tried=False)
            await asyncio.sleep(PAUSE_S)
        except Exception as error:
            detail = error_detail(error, job.id)
            if not unwanted.is_set():
                log.info("job failed", exc_info=detail.code == "internal_error", extra={"job_id": job.id})
                await asyncio.to_thread(self.store.fail, job.id, detail.code, detail.message)
        finally:
            del self._unwanted[job.id]

    async def _transcribe(self, recording: AudioFile, job: Job, unwanted: asyncio.Event) -> Answer:
        def on_part(part: Part) -> None:
            if not self.store.progress(job.id, part.end_s):
                raise _NobodyWantsItError("the job was deleted")

        async def caller_left() -> None:
            await unwanted.wait()

        return await self.engine.transcribe(
            recording,
            job.wish.options,
            caller_left=caller_left,
            timeout_s=self.timeout_s,
            degrade=False,  # it can wait
            on_part=on_part,
        )
