"""The web application: `create_app(settings)` puts the parts together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from asr.errors import AsrError
from service.engine import Engine
from service.errors import BusyError, error_response
from service.form_limit import LONGEST_FIELD, MAX_FIELDS
from service.jobs import JOB_PATHS, open_jobs
from service.jobs import router as jobs_router
from service.keys import ApiKeys
from service.metrics import Metrics
from service.openai_routes import router as openai_router
from service.request_context import REQUEST_ID_HEADER, RequestContext
from service.routes import TRANSCRIBE_PATHS, Service, router
from service.settings import Settings
from service.speech import Loader, Readiness, load_speech
from service.stream import STREAM_PATH
from service.stream import router as stream_router
from service.traces import TracedRequests, Traces, open_traces
from service.upload_limit import UploadLimit

log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    load: Loader = load_speech,
    on_load_failure: Callable[[Exception], None] | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """An application that serves `settings.bundle`.

    load: makes the models, on a thread, when the application starts; until it is done `/readyz` says so.
    on_load_failure: called on the event loop with the exception when loading or the self-test fails; without
    it the application stays up, not ready. traces: None: the settings'. Raises SettingsError when traces are
    asked for and cannot be made.
    """
    metrics = Metrics()
    readiness = Readiness()
    traces = open_traces() if traces is None and settings.traces else traces
    engine = Engine(settings, readiness, metrics, traces)
    service = Service(settings, readiness, engine, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(service, load, on_load_failure))
        jobs = app.state.jobs = await asyncio.to_thread(open_jobs, settings, engine, readiness)
        if jobs is not None:
            jobs.runner.start()
        yield
        if jobs is not None:
            await jobs.close()
        await engine.close()
        await loading
        if traces is not None:
            await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="asr-sound",
        summary="Speech to text with three decoders and hotwords.",
        version=version("asr-sound"),
        lifespan=lifespan,
        redoc_url=None,
        # Of forms that are not multipart, which can hold no recording; for those see service/form_limit.py.
        form_limits={"max_files": 1, "max_fields": MAX_FIELDS, "max_part_size": LONGEST_FIELD},
    )
    app.state.service = service
    app.state.jobs = None
    app.state.streams = 0
    app.include_router(router)
    app.include_router(openai_router)
    app.include_router(jobs_router)
    app.include_router(stream_router)
    for kind in (HTTPException, RequestValidationError, AsrError):
        app.add_exception_handler(kind, _answer_error)
    # The last one added is the outermost.
    app.add_middleware(
        UploadLimit,
        max_bytes=settings.max_upload_bytes,
        timeout_s=settings.upload_timeout_s,
        guards=dict.fromkeys(TRANSCRIBE_PATHS, engine.check_room)
        | dict.fromkeys(JOB_PATHS, lambda uploads: _check_uploads(uploads, settings)),
    )
    app.add_middleware(ApiKeys, hashes=listed(settings.api_key_hashes))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=listed(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", REQUEST_ID_HEADER],
            expose_headers=[REQUEST_ID_HEADER, "Retry-After", "Location"],
        )
    endpoints = {STREAM_PATH}
    for one in (router, openai_router, jobs_router):
        endpoints |= {route.path for route in one.routes if isinstance(route, APIRoute)}
    if traces is not None:
        app.add_middleware(TracedRequests, traces=traces, endpoints=endpoints)
    app.add_middleware(RequestContext, metrics=metrics, endpoints=endpoints)
    return app


def _check_uploads(uploads: int, settings: Settings) -> None:
    """Raises BusyError: a job needs no room in the queue, but a place to be received."""
    if uploads >= settings.max_uploads:
        raise BusyError(f"{uploads} uploads are being read", retry_after_s=1)


def listed(text: str) -> list[str]:
    """The parts of a setting that is separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


async def _load(service: Service, load: Loader, on_load_failure: Callable[[Exception], None] | None) -> None:
    """Load the models on a thread, so that the process answers meanwhile."""
    await asyncio.to_thread(service.engine.warm)
    try:
        await asyncio.to_thread(service.readiness.load, service.settings, load)
    except Exception as error:
        if on_load_failure is None:
            log.error("%s", service.readiness.reasons[0], exc_info=not isinstance(error, AsrError))
        else:
            on_load_failure(error)
        return
    speech = service.readiness.speech
    service.metrics.model.info({"name": speech.name, "sha256": speech.sha256, "device": str(speech.device)})


async def _answer_error(request: Request, error: Exception) -> Response:
    return error_response(error, request.scope["state"])
