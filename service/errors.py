"""Exceptions of the service, and the one table from exception to HTTP answer.

SettingsError             an `ASR_*` variable that is unknown or out of range; never reaches a caller
RefusedError              the service does not take the request, or gives up on it
├── UploadTooLargeError       more bytes than the cap
├── HeadersTooLargeError      more bytes of headers than the cap
├── UploadTimeoutError        the body did not arrive in time
├── WrongKeyError             no API key, or one that is not known
├── NotReadyError             the models are loading, or failed to
├── BusyError                 as much is in the house as it may hold
├── StoppingError             the service is shutting down
├── UnknownModelError         a model that is not served
├── UnknownJobError           no such job, or another caller's
├── NoJobsError               this service keeps no jobs
├── TooManyStreamsError       every stream's place is taken
├── IdleStreamError           a stream on which nothing comes
├── TimedOutError             no result within the caller's time
└── CallerLeftError           nobody is there to answer
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from asr.errors import (
    AudioError,
    AudioTooLongError,
    DecodingTimeoutError,
    EmptyAudioError,
    OptionsError,
    TextError,
)
from service.schemas import ErrorDetail, ErrorResponse

MAX_QUOTED_CHARS = 80  # of a caller's value repeated in a message


class SettingsError(Exception):
    """The environment asks for something that cannot be."""


class RefusedError(HTTPException):
    """The service does not take the request, or gives up on it.

    An HTTPException because FastAPI's form parser turns everything else that is raised while a body is read
    into a 400; its status is of no account, `ERRORS` has it.
    """

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(status_code=500, detail=message)
        self.retry_after_s = retry_after_s


class UploadTooLargeError(RefusedError):
    """More bytes than the cap."""


class HeadersTooLargeError(RefusedError):
    """More bytes of headers than the cap."""


class UploadTimeoutError(RefusedError):
    """The body did not arrive in time."""


class WrongKeyError(RefusedError):
    """No API key, or one that is not known."""


class NotReadyError(RefusedError):
    """The models are loading, or failed to."""


class BusyError(RefusedError):
    """As much is in the house as it may hold."""


class StoppingError(RefusedError):
    """The service is shutting down."""


class UnknownModelError(RefusedError):
    """The caller names a model that is not served."""


class UnknownJobError(RefusedError):
    """No such job, or another caller's."""


class NoJobsError(RefusedError):
    """This service keeps no jobs."""


class TooManyStreamsError(RefusedError):
    """Every stream's place is taken."""


class IdleStreamError(RefusedError):
    """A stream on which nothing comes."""


class TimedOutError(RefusedError):
    """No result within the caller's time."""


class CallerLeftError(RefusedError):
    """The connection was closed before the answer."""


# The most particular class of an exception that is listed decides.
ERRORS: Mapping[type[Exception], tuple[int, str]] = {
    EmptyAudioError: (400, "empty_audio"),
    WrongKeyError: (401, "wrong_key"),
    UnknownModelError: (404, "unknown_model"),
    UnknownJobError: (404, "unknown_job"),
    NoJobsError: (404, "no_jobs"),
    IdleStreamError: (408, "idle_stream"),
    UploadTimeoutError: (408, "upload_timeout"),
    UploadTooLargeError: (413, "upload_too_large"),
    AudioTooLongError: (413, "audio_too_long"),
    AudioError: (415, "unreadable_audio"),
    OptionsError: (422, "invalid_option"),
    TextError: (422, "invalid_text"),
    RequestValidationError: (422, "invalid_request"),
    HeadersTooLargeError: (431, "headers_too_large"),
    TooManyStreamsError: (429, "too_many_streams"),
    BusyError: (429, "busy"),
    CallerLeftError: (499, "caller_left"),
    NotReadyError: (503, "not_ready"),
    StoppingError: (503, "stopping"),
    TimedOutError: (504, "timeout"),
    DecodingTimeoutError: (504, "timeout"),
    Exception: (500, "internal_error"),
}
# HTTPException that the framework raises itself, by status; any other is `http_error`.
FRAMEWORK_CODES: Mapping[int, str] = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


def status_and_code(error: Exception) -> tuple[int, str]:
    """HTTP status and error code for an exception."""
    if isinstance(error, HTTPException) and not isinstance(error, RefusedError):
        return error.status_code, FRAMEWORK_CODES.get(error.status_code, "http_error")
    return next(ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS)


def error_response(error: Exception, state: MutableMapping[str, Any]) -> JSONResponse:
    """The answer to a request that ended in `error`; leaves `error_code` in the request's state.

    Unforeseen errors keep their message to the log.
    """
    detail = error_detail(error, state["request_id"])
    state["error_code"] = detail.code
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, RefusedError) and error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    status, _ = status_and_code(error)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(ErrorResponse(error=detail).model_dump(), status, headers)


def error_detail(error: Exception, request_id: str) -> ErrorDetail:
    """What a caller is told of an exception."""
    status, code = status_and_code(error)
    return ErrorDetail(code=code, message=_message(error, status), request_id=request_id)


def _message(error: Exception, status: int) -> str:
    """One sentence for the caller."""
    if isinstance(error, RequestValidationError):
        return "; ".join(_fault(fault) for fault in error.errors())
    if isinstance(error, HTTPException):
        return str(error.detail)
    return str(error) if status != 500 else "The service failed on this request; its log has the request id."


def _fault(fault: Mapping[str, object]) -> str:
    """One validation fault: where, what was expected, what came."""
    location = fault["loc"]
    assert isinstance(location, tuple)
    value = fault.get("input")
    quoted = f", not {value[:MAX_QUOTED_CHARS]!r}" if isinstance(value, str) else ""
    return f"{location[-1]}: {fault['msg']}{quoted}"
