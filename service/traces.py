"""OpenTelemetry traces, where `ASR_TRACES` asks for them: a span a request, below it recordings and steps.

What is in them: times, decoders, seconds of audio, statuses and error codes. Never a transcript, a hotword, a
query or a file's name. Nothing is imported and nothing is done while they are off.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import SettingsError, status_and_code
from service.request_context import QUIET_ENDPOINTS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

SHORTEST_WAIT_S = 0.001  # that is worth a span of its own

Value = str | bool | int | float


def open_traces() -> "Traces":
    """Traces that are sent where OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, …) say.

    Raises SettingsError when the packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(
            "ASR_TRACES needs OpenTelemetry's packages: pip install 'asr-sound[otel]'"
        ) from error
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before these.
    ours = {"service.name": "asr-sound", "service.version": version("asr-sound")}
    provider = TracerProvider(resource=Resource(ours).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


class Traces:
    """Makes spans; a span begun in a task is the parent of those that are begun within it."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("asr-sound")
        self._propagator = TraceContextTextMapPropagator()
        self._server = SpanKind.SERVER

    @contextmanager
    def request(self, name: str, headers: Headers) -> Iterator["Span"]:
        """A request's span: of the caller's trace where its `traceparent` names one."""
        caller = self._propagator.extract(headers)
        with self._tracer.start_as_current_span(
            name, caller, self._server, record_exception=False, set_status_on_exception=False
        ) as span:
            yield span

    @contextmanager
    def span(self, name: str, **attributes: Value) -> Iterator["Span"]:
        """A span below the present one. An error is told by its class: messages may quote the caller."""
        with self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                _fail(span, type(error).__name__)
                raise

    def step(self, stage: str, waited_s: float, begun_ns: int, audio_s: float) -> None:
        """A step that has ended: it came at `begun_ns` (Unix time), waited for a thread and was done."""
        at_work_ns = begun_ns + round(waited_s * 1e9)
        if waited_s >= SHORTEST_WAIT_S:
            waiting = self._tracer.start_span("queue", attributes={"asr.stage": stage}, start_time=begun_ns)
            waiting.end(at_work_ns)
        attributes = {"asr.audio_s": round(audio_s, 3)}
        self._tracer.start_span(stage, attributes=attributes, start_time=at_work_ns).end(
            max(at_work_ns, time.time_ns())
        )

    def close(self) -> None:
        """Send what is left; blocks."""
        self._provider.shutdown()


class TracedRequests:
    """An ASGI layer that puts a span around each request and WebSocket; `service.request_context` is outside.

    Leaves `trace_id` in the request's state, for the log.
    """

    def __init__(self, app: ASGIApp, traces: Traces, endpoints: Collection[str]) -> None:
        self._app = app
        self._traces = traces
        self._endpoints = frozenset(endpoints) - QUIET_ENDPOINTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in QUIET_ENDPOINTS:
            await self._app(scope, receive, send)
            return
        state, status = scope["state"], 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope.get("method", "WS")
        endpoint = scope["path"] if scope["path"] in self._endpoints else "other"
        with self._traces.request(f"{method} {endpoint}", Headers(scope=scope)) as span:
            state["trace_id"] = f"{span.get_span_context().trace_id:032x}"
            try:
                await self._app(scope, receive, send_noting)
            except Exception as error:  # `service.request_context` answers it
                status, state["error_code"] = status_and_code(error)
                raise
            finally:
                found = {"http.request.method": method, "http.route": endpoint}
                found |= {"asr.request_id": state["request_id"]}
                found |= {"http.response.status_code": status} if status else {}
                found |= {f"asr.{key}": state[key] for key in ("decoder", "audio_s") if key in state}
                span.set_attributes(found)
                if "error_code" in state:
                    span.set_attribute("error.type", state["error_code"])
                if status >= 500:
                    _fail(span, state.get("error_code", str(status)))


def _fail(span: "Span", error_type: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)
