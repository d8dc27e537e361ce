"""The door: refuses a transcription before its body is read, and bodies that are too large or too slow."""

import asyncio
import time
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    CallerLeftError,
    HeadersTooLargeError,
    RefusedError,
    UploadTimeoutError,
    UploadTooLargeError,
    error_response,
)

MAX_HEADER_BYTES = 16 * 1024


class UploadLimit:
    """An ASGI layer that bounds request bodies: bytes and seconds of each.

    guards: by path, given how many bodies are being read, raise RefusedError when a request could not be
    served now; such a request is answered without reading its body.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        timeout_s: float,
        guards: Mapping[str, Callable[[int], None]],
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._guards = dict(guards)
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_door(scope)
        except RefusedError as refusal:
            await error_response(refusal, scope["state"])(scope, receive, send)
            return
        body = _BoundedBody(receive, self._max_bytes, self._timeout_s, self._upload_ended)
        self._uploads += 1
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.end()

    def _check_door(self, scope: Scope) -> None:
        """Raises RefusedError for a request that need not be read."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            raise HeadersTooLargeError(f"the headers are larger than {MAX_HEADER_BYTES} bytes")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise _too_large(self._max_bytes)
        guard = self._guards.get(scope["path"])
        if guard is not None and scope["method"] == "POST":
            guard(self._uploads)

    def _upload_ended(self) -> None:
        self._uploads -= 1


class _BoundedBody:
    """`receive` of one request, counting bytes and time until the body's last piece."""

    def __init__(
        self, receive: Receive, max_bytes: int, timeout_s: float, on_end: Callable[[], None]
    ) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._on_end = on_end
        self._n_bytes = 0
        self._ended = False

    async def receive(self) -> Message:
        """The next message. Raises UploadTooLargeError, UploadTimeoutError, CallerLeftError."""
        if self._ended:  # only the disconnection is left to come, and that takes as long as it takes
            return await self._receive()
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            raise UploadTimeoutError(f"the body did not arrive within {self._timeout_s:g} s") from error
        if message["type"] == "http.disconnect":
            raise CallerLeftError("the caller closed the connection")
        self._n_bytes += len(message.get("body", b""))
        if self._n_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        if not message.get("more_body", False):
            self.end()
        return message

    def end(self) -> None:
        """The upload takes no place any more; may be called again."""
        if not self._ended:
            self._ended = True
            self._on_end()


def _too_large(max_bytes: int) -> UploadTooLargeError:
    return UploadTooLargeError(f"the request body is larger than {max_bytes} bytes")
