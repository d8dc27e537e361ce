"""`WS /v1/stream`: PCM in, words out while somebody speaks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket

from asr.decoding.options import DecodingOptions
from asr.errors import OptionsError
from asr.pcm_stream import PcmStream
from asr.raw_audio import raw_audio
from service.errors import TooManyStreamsError
from service.parameters import bounded_hotwords
from service.routes import Service
from service.stream_session import StreamSession, told

STREAM_PATH = "/v1/stream"

router = APIRouter()


@router.websocket(STREAM_PATH)
async def stream(
    socket: WebSocket,
    rate: Annotated[str, Query()] = "16000",
    channels: Annotated[str, Query()] = "1",
    encoding: Annotated[str, Query()] = "s16le",
    decoder: Annotated[str | None, Query()] = None,
    hotwords: Annotated[list[str] | None, Query()] = None,
    hotword_weight: Annotated[str | None, Query()] = None,
    lm: Annotated[str | None, Query()] = None,
    partials: Annotated[str, Query()] = "true",
) -> None:
    """Words of what is being said. Parameters are texts: a wrong one is answered by more than a 403."""
    service: Service = socket.app.state.service
    await socket.accept()
    async with told(socket):
        with _place(socket, service):
            options = replace(_options(service, decoder, hotwords or [], hotword_weight), lm=lm)
            socket.scope["state"]["decoder"] = options.decoder
            raw = raw_audio(f"audio/pcm;rate={rate};channels={channels};encoding={encoding}")
            assert raw is not None
            service.readiness.speech.check(options)
            session = StreamSession(
                socket,
                service.engine,
                service.settings,
                options,
                PcmStream(raw),
                partials=_truth("partials", partials),
            )
            await session.run()


@contextmanager
def _place(socket: WebSocket, service: Service) -> Iterator[None]:
    """A stream's place for as long as it is open. Raises TooManyStreamsError."""
    if socket.app.state.streams >= service.settings.max_streams:
        raise TooManyStreamsError(f"{service.settings.max_streams} streams are open", retry_after_s=10)
    socket.app.state.streams += 1
    service.metrics.streams.inc()
    try:
        yield
    finally:
        socket.app.state.streams -= 1
        service.metrics.streams.dec()


def _options(
    service: Service, decoder: str | None, hotwords: list[str], hotword_weight: str | None
) -> DecodingOptions:
    """Raises OptionsError."""
    return DecodingOptions(
        decoder=decoder or service.settings.default_decoder,  # type: ignore[arg-type]  # checked there
        word_timestamps=True,
        hotwords=bounded_hotwords(hotwords, service.settings),
        hotword_weight=None if hotword_weight is None else _number("hotword_weight", hotword_weight),
        rescore_budget_s=service.settings.rescore_budget_s,
    )


def _number(name: str, text: str) -> float:
    """Raises OptionsError."""
    try:
        return float(text)
    except ValueError as error:
        raise OptionsError(f"{name} must be a number, not {text[:40]!r}") from error


def _truth(name: str, text: str) -> bool:
    """Raises OptionsError."""
    if text not in ("true", "false"):
        raise OptionsError(f"{name} must be true or false, not {text[:40]!r}")
    return text == "true"
