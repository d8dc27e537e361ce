"""One stream: audio pushed into a window that grows, words written again and again, and for good at a pause.

Partial words come from greedy decoding of the window since the last cut, every `stream_step_s` of new audio
unless the previous ones are still being made; final words from the decoder asked for, once the speaker has
paused for 0.6 s or has spoken for 15 s. Memory is one window: while final words are being made nothing more
is read, so a caller who sends faster than that waits.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect

from asr.audio import SAMPLE_RATE, AudioFile, Samples
from asr.decoding.options import DecodingOptions
from asr.decoding.result import Word
from asr.endpoints import LiveWindow
from asr.errors import AudioTooLongError, OptionsError
from asr.pcm_stream import PcmStream
from asr.raw_audio import RawAudio
from service.engine import Engine
from service.errors import BusyError, IdleStreamError, error_detail, status_and_code
from service.schemas import WordBody
from service.settings import Settings

BUSY_TRIES = 5
MAX_BUSY_S = 5.0
FINISH = "finish"
SAMPLES = RawAudio("f32le", SAMPLE_RATE)

log = logging.getLogger(__name__)


@asynccontextmanager
async def told(socket: WebSocket) -> AsyncIterator[None]:
    """Whatever is raised inside is the last message; then the socket is closed.

    Codes: 1000 at the end, 1008 for the caller's faults, 1013 to try again later, 1011 for ours.
    """
    request_id = socket.scope["state"]["request_id"]
    try:
        yield
    except WebSocketDisconnect:
        return
    except Exception as error:
        status, code = status_and_code(error)
        socket.scope["state"]["error_code"] = code
        if status == 500:
            log.exception("stream failed", extra={"request_id": request_id})
        detail = error_detail(error, request_id)
        await _last_words(socket, {"type": "error", "error": detail.model_dump()}, _close_code(status))
    else:
        await _last_words(socket, None, 1000)


def _close_code(status: int) -> int:
    if status in (429, 503):
        return 1013
    return 1011 if status >= 500 else 1008


async def _last_words(socket: WebSocket, message: dict[str, Any] | None, code: int) -> None:
    """The caller may be gone already."""
    try:
        if message is not None:
            await socket.send_json(message)
        await socket.close(code)
    except (RuntimeError, WebSocketDisconnect):
        pass


@dataclass
class StreamSession:
    """A stream from its first sample to its last word."""

    socket: WebSocket
    engine: Engine
    settings: Settings
    options: DecodingOptions
    pcm: PcmStream
    partials: bool
    _window: LiveWindow = field(default_factory=LiveWindow)
    _segment: int = 0
    _shown_at: int = 0  # samples of the window when partial words were last asked for
    _showing: "asyncio.Task[None] | None" = None

    async def run(self) -> None:
        """Until the caller says `finish`. Raises what ends the stream early."""
        try:
            while (content := await self._next()) is not None:
                await self._take(self.pcm.push(content))
            await self._take(self.pcm.finish())
            await self._finish_segment(len(self._window.samples))
            await self._send("done", duration_s=round(self._window.end_s, 3))
        finally:
            await self._stop_showing()

    async def _next(self) -> bytes | None:
        """The next bytes; None when the caller has finished."""
        try:
            async with asyncio.timeout(self.settings.stream_idle_s):
                message = await self.socket.receive()
        except TimeoutError as error:
            raise IdleStreamError(f"nothing came for {self.settings.stream_idle_s:g} s") from error
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1005)
        content: bytes | None = message.get("bytes")
        if content is not None:
            return content
        if _is_finish(message.get("text") or ""):
            return None
        raise OptionsError('a text message must be {"type": "finish"}; audio comes as binary messages')

    async def _take(self, samples: Samples) -> None:
        """Push samples, as much as the window has room for at a time."""
        while len(samples):
            room = max(1, self._window.room())
            self._window.push(samples[:room])
            samples = samples[room:]
            if self._window.end_s > self.settings.max_duration_s:
                raise AudioTooLongError(f"the stream is longer than {self.settings.max_duration_s:g} s")
            while (cut := self._window.cut()) is not None:
                await self._finish_segment(cut)
            self._show()

    def _show(self) -> None:
        """Have partial words made, where it is time."""
        grown = len(self._window.samples) - self._shown_at
        busy = self._showing is not None and not self._showing.done()
        if not self.partials or busy or grown < self.settings.stream_step_s * SAMPLE_RATE:
            return
        if self._showing is not None:
            self._showing.result()
        self._shown_at = len(self._window.samples)
        self._showing = asyncio.create_task(self._show_partial(self._window.samples, self._window.start_s))

    async def _show_partial(self, samples: Samples, start_s: float) -> None:
        options = replace(self.options, decoder="greedy", hotwords=(), hotword_weight=None)
        try:
            words = await self._words(samples, options)
        except BusyError:
            return  # the next ones will do
        await self._send_words("partial", words, start_s, start_s + len(samples) / SAMPLE_RATE)

    async def _stop_showing(self) -> None:
        """Partial words that come after the final ones would be wrong."""
        showing, self._showing = self._showing, None
        if showing is not None:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def _finish_segment(self, cut: int) -> None:
        """Final words of the window's first samples."""
        await self._stop_showing()
        start_s = self._window.start_s
        samples = self._window.take(cut)
        self._shown_at = 0
        if not len(samples):
            return
        words = await self._patiently(samples)
        await self._send_words("final", words, start_s, start_s + len(samples) / SAMPLE_RATE)
        self._segment += 1

    async def _patiently(self, samples: Samples) -> Sequence[Word]:
        """Final words are not given up at once where the service is full. Raises BusyError in the end."""
        for _ in range(BUSY_TRIES - 1):
            try:
                return await self._words(samples, self.options)
            except BusyError as error:
                await asyncio.sleep(min(error.retry_after_s or 1, MAX_BUSY_S))
        return await self._words(samples, self.options)

    async def _words(self, samples: Samples, options: DecodingOptions) -> Sequence[Word]:
        recording = AudioFile(np.ascontiguousarray(samples).tobytes(), SAMPLES)
        answer = await self.engine.transcribe(recording, options)
        return answer.transcript.words

    async def _send_words(self, kind: str, words: Sequence[Word], start_s: float, end_s: float) -> None:
        placed = [
            replace(w, start_s=round(w.start_s + start_s, 3), end_s=round(w.end_s + start_s, 3))
            for w in words
        ]
        await self._send(
            kind,
            segment=self._segment,
            text=" ".join(word.word for word in placed),
            start_s=round(start_s, 3),
            end_s=round(end_s, 3),
            words=[WordBody.model_validate(word).model_dump() for word in placed],
        )

    async def _send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_json({"type": kind} | fields)


def _is_finish(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("type") == FINISH
