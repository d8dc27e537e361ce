"""The recording that a request brings: a form's file, or the whole body."""

import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, BinaryIO, Literal, cast

from fastapi import Depends, File, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool

from asr.audio import AudioFile
from asr.errors import OptionsError
from asr.raw_audio import raw_audio
from service.engine import Engine

IN_MEMORY = 1024 * 1024  # bytes of a body; a longer one goes to disk
MAX_CHANNELS = 8  # transcribed one by one; any number can be mixed
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

Channels = Literal["mixed", "separate"]

# For the OpenAPI document: the form is described by the parameters, the bare body cannot be.
BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in (
                "application/octet-stream",
                "audio/L16;rate=16000;channels=1",
                "audio/pcm;rate=16000",
            )
        }
    }
}


async def audio_file(
    request: Request,
    file: Annotated[
        UploadFile | None, File(description="The recording: wav, flac, mp3, ogg, m4a or webm.")
    ] = None,
) -> AsyncIterator[AudioFile]:
    """The form's field `file`, or the body of any other content type than a form's.

    Content types of `asr.raw_audio` say what the bytes are; all others are not believed. Raises
    RequestValidationError without a recording, and UnreadableAudioError.
    """
    kind = request.headers.get("content-type", "")
    if file is not None:
        yield audio_of(file)
        return
    if not kind or kind.split(";")[0].strip().lower() in FORMS:
        raise RequestValidationError([{"type": "missing", "loc": ("body", "file"), "msg": "Field required"}])
    raw = raw_audio(kind)
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spooled:
        async for chunk in request.stream():
            if chunk:
                await run_in_threadpool(spooled.write, chunk)
        yield AudioFile(cast(BinaryIO, spooled), raw)


def audio_of(file: UploadFile) -> AudioFile:
    """A form's file. Raises UnreadableAudioError."""
    return AudioFile(file.file, raw_audio(file.content_type or ""))


Recording = Annotated[AudioFile, Depends(audio_file)]


async def channels_of(engine: Engine, recording: AudioFile, wanted: Channels) -> list[AudioFile]:
    """What is to be transcribed, one after another. Raises AudioError, OptionsError."""
    if wanted == "mixed":
        return [recording]
    n_channels = await engine.count_channels(recording)
    if n_channels > MAX_CHANNELS:
        raise OptionsError(f"the recording has {n_channels} channels, at most {MAX_CHANNELS} are separated")
    return [replace(recording, channel=channel) for channel in range(n_channels)]
