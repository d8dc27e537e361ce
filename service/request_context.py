"""The outermost ASGI layer: every request gets an id, a log line, a count, and an answer whatever happens."""

import logging
import re
import time
import uuid
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import error_response
from service.metrics import Metrics

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET_ENDPOINTS = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds by machines

log = logging.getLogger(__name__)


class RequestContext:
    """Sets `request_id` in the state of a request or WebSocket.

    Reads `decoder` and `error_code` there when it is over.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._endpoints = frozenset(endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        # A copy: the state that the server passes holds the lifespan's, which all requests share.
        state = scope["state"] = dict(scope.get("state", {}))
        state["request_id"] = request_id = _request_id(scope)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            log.exception("request failed", extra={"request_id": request_id})
            if status is not None or scope["type"] == "websocket":
                raise
            await error_response(error, state)(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int | None, seconds: float) -> None:
        """Count and log the request. Neither its query, which may hold hotwords, nor its text is logged."""
        state = scope["state"]
        endpoint = scope["path"] if scope["path"] in self._endpoints else "other"
        self._metrics.requests.labels(endpoint, state.get("decoder", ""), str(status)).inc()
        if "error_code" in state:
            self._metrics.failures.labels(state["error_code"]).inc()
        fields = {
            "request_id": state["request_id"],
            "method": scope.get("method", "WS"),
            "path": scope["path"],
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        more = {key: state[key] for key in ("decoder", "audio_s", "error_code", "trace_id") if key in state}
        level = logging.DEBUG if endpoint in QUIET_ENDPOINTS and status == 200 else logging.INFO
        log.log(level, "request", extra=fields | more)


def _request_id(scope: Scope) -> str:
    """The caller's id where it is one, else a new one."""
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
