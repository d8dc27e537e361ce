"""Asynchronous jobs: `POST /v1/jobs`, `GET` and `DELETE /v1/jobs/{id}`."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, BinaryIO, cast

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from service.engine import Engine
from service.errors import NoJobsError
from service.form_limit import FormRoute
from service.job_runner import JobRunner
from service.job_store import Job, JobStore, State, Wish
from service.parameters import Parameters
from service.recording import BODY, Recording
from service.routes import FAILURES
from service.schemas import ErrorResponse, TranscribeResponse
from service.settings import Settings
from service.speech import Readiness

JOB_PATHS = ("/v1/jobs",)
UNKNOWN: dict[int | str, dict[str, object]] = {status: {"model": ErrorResponse} for status in (404, 422, 500)}

router = APIRouter(route_class=FormRoute)


@dataclass(frozen=True)
class Jobs:
    """What the endpoints of jobs share."""

    store: JobStore
    runner: JobRunner

    async def close(self) -> None:
        """What runs waits for the next start."""
        await self.runner.stop()
        await run_in_threadpool(self.store.close)


def open_jobs(settings: Settings, engine: Engine, readiness: Readiness) -> Jobs | None:
    """The jobs of `settings.jobs_dir`, those that were interrupted waiting again; None without a folder."""
    if settings.jobs_dir is None:
        return None
    store = JobStore(
        settings.jobs_dir,
        max_jobs=settings.max_jobs,
        max_bytes=settings.max_jobs_mb * 1024 * 1024,
        expiry_s=settings.job_expiry_s,
    )
    store.recover()
    return Jobs(store, JobRunner(store, engine, readiness, settings.jobs_at_once, settings.job_timeout_s))


class JobError(BaseModel):
    """Why a job failed: the code and the sentence that a request would have been answered."""

    code: str
    message: str


class JobBody(BaseModel):
    """A job as it stands. `audio_s`: seconds of audio transcribed so far."""

    id: str
    status: State
    audio_s: float
    created_at: datetime
    ended_at: datetime | None
    result: TranscribeResponse | None
    error: JobError | None

    @classmethod
    def of(cls, job: Job) -> "JobBody":
        return cls(
            id=job.id,
            status=job.state,
            audio_s=round(job.audio_s, 3),
            created_at=datetime.fromtimestamp(job.created, UTC),
            ended_at=None if job.ended is None else datetime.fromtimestamp(job.ended, UTC),
            result=None if job.result is None else TranscribeResponse.model_validate(job.result),
            error=None if job.error is None else JobError.model_validate(job.error),
        )


async def _jobs(request: Request) -> Jobs:
    """Raises NoJobsError where none are kept."""
    jobs = request.app.state.jobs
    if jobs is None:
        raise NoJobsError("this service keeps no jobs: ASR_JOBS_DIR is not set")
    assert isinstance(jobs, Jobs)
    return jobs


async def _owner(request: Request) -> str:
    """Who asks: jobs are shown to their owner only. Empty where there are no keys."""
    return str(request.scope["state"].get("key", ""))


Shared = Annotated[Jobs, Depends(_jobs)]
Owner = Annotated[str, Depends(_owner)]
JobId = Annotated[str, Path(alias="id", pattern="^[0-9a-f]{32}$", description="As `POST /v1/jobs` said.")]


@router.post("/v1/jobs", status_code=202, responses=FAILURES, openapi_extra=BODY)
async def submit(
    request: Request, response: Response, jobs: Shared, owner: Owner, recording: Recording, asked: Parameters
) -> JobBody:
    """Take a recording to be transcribed later."""
    if asked.options.lm is not None or asked.options.lm_text:  # refused now, not when its turn comes
        jobs.runner.readiness.speech.check(asked.options)
    wish = Wish(asked.options, asked.channels, recording.raw)
    job = await run_in_threadpool(jobs.store.add, wish, cast(BinaryIO, recording.content), owner)
    jobs.runner.look()
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobBody.of(job)


@router.get("/v1/jobs/{id}", responses=UNKNOWN)
async def look(jobs: Shared, owner: Owner, job_id: JobId) -> JobBody:
    """How a job stands, and its result once it is done."""
    return JobBody.of(await run_in_threadpool(jobs.store.get, job_id, owner))


@router.delete("/v1/jobs/{id}", status_code=204, responses=UNKNOWN)
async def cancel(jobs: Shared, owner: Owner, job_id: JobId) -> None:
    """Cancel a job that has not ended; forget it, its recording and its result."""
    await run_in_threadpool(jobs.store.remove, job_id, owner)
    jobs.runner.drop(job_id)
