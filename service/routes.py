"""The endpoints. They hold no `try`: service/errors.py says what each exception answers."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from asr.decoding.options import DECODERS
from service.engine import Engine
from service.form_limit import FormRoute
from service.journey import Answer
from service.metrics import Metrics
from service.parameters import Parameters
from service.recording import BODY, Recording, channels_of
from service.schemas import (
    ErrorResponse,
    HealthResponse,
    ModelEntry,
    ModelList,
    ReadyResponse,
    TranscribeResponse,
)
from service.settings import Settings
from service.speech import Readiness

TRANSCRIBE_PATHS = ("/transcribe", "/v1/audio/transcriptions")
FAILURES: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 408, 413, 415, 422, 429, 500, 503, 504)
}
NOT_READY: dict[int | str, dict[str, object]] = {503: {"model": ErrorResponse}}

router = APIRouter(route_class=FormRoute)


@dataclass(frozen=True)
class Service:
    """What the endpoints share."""

    settings: Settings
    readiness: Readiness
    engine: Engine
    metrics: Metrics


async def _service(request: Request) -> Service:  # async: others are called on a thread, and wait for it
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


Shared = Annotated[Service, Depends(_service)]


@router.post("/transcribe", responses=FAILURES, openapi_extra=BODY)
async def transcribe(
    request: Request,
    response: Response,
    service: Shared,
    recording: Recording,
    asked: Parameters,
) -> TranscribeResponse:
    """The text of a recording, with its scores."""
    speech = service.readiness.speech
    answers = [
        await service.engine.transcribe(
            one, asked.options, caller_left=lambda: disconnected(request), degrade=asked.degrade
        )
        for one in await channels_of(service.engine, recording, asked.channels)
    ]
    request.state.decoder = answers[0].transcript.decoder
    response.headers.update(decoder_headers(answers[0]))
    request.state.audio_s = round(sum(answer.transcript.duration_s for answer in answers), 3)
    return TranscribeResponse.of_channels(answers, speech, request.state.request_id, asked.channels)


@router.get("/healthz")
async def healthz() -> HealthResponse:
    """The process answers."""
    return HealthResponse()


@router.get("/readyz", responses={503: {"model": ReadyResponse}})
async def readyz(service: Shared, response: Response) -> ReadyResponse:
    """Whether the models are loaded and self-tested; the reasons when not."""
    reasons = service.readiness.reasons
    response.status_code = 503 if reasons else 200
    return ReadyResponse(ready=not reasons, reasons=reasons)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: Shared) -> Response:
    """Prometheus metrics."""
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/models", responses=NOT_READY)
async def models(service: Shared) -> ModelList:
    """The bundle that is served."""
    speech = service.readiness.speech
    entry = ModelEntry(
        id=speech.name,
        created=service.readiness.loaded_at,
        sha256=speech.sha256,
        device=str(speech.device),
        sample_rate=speech.sample_rate,
        decoders=DECODERS,
        default_decoder=service.settings.default_decoder,
        lms=speech.lms,
    )
    return ModelList(data=[entry])


def decoder_headers(answer: Answer) -> dict[str, str]:
    """Which decoder was asked for and which was used, and why where they differ."""
    headers = {"X-Decoder-Asked": answer.asked, "X-Decoder-Used": answer.transcript.decoder}
    return headers | ({"X-Degraded": answer.degraded} if answer.degraded else {})


async def disconnected(request: Request) -> None:
    """Returns when the caller has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
