"""A long transcription as server-sent events, sent while it goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from pydantic import BaseModel

from asr.long_audio import Part
from service.errors import error_response
from service.journey import Answer

OnPart = Callable[[Part], None]


class PartStream:
    """The parts of one transcription as they come, then its answer."""

    def __init__(self, transcribe: Callable[[OnPart], Awaitable[Answer]]) -> None:
        """transcribe: given what to call with each part, from any thread."""
        self._came: asyncio.Queue[Part | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def came(part: Part) -> None:
            loop.call_soon_threadsafe(self._came.put_nowait, part)

        self._answer = asyncio.ensure_future(transcribe(came))
        # In the loop's order: parts that threads have handed over come before the end.
        self._answer.add_done_callback(lambda _: loop.call_soon(self._came.put_nowait, None))

    async def part(self) -> Part | None:
        """The next part; None after the last. Raises what the transcription raises."""
        came = await self._came.get()
        if came is None:
            await self._answer
        return came

    async def answer(self) -> Answer:
        return await self._answer

    def close(self) -> None:
        """Nobody wants the rest."""
        self._answer.cancel()


async def event_stream(
    stream: PartStream,
    of_part: Callable[[Part, bool], Iterator[BaseModel]],
    of_answer: Callable[[Answer], BaseModel],
    state: MutableMapping[str, Any],
) -> AsyncIterator[bytes]:
    """The events' bytes, begun only when the first part is there: until then, errors are answers.

    of_part: a part's events, told whether text went before it. An error on the way is the last event, in the
    shape of an error's answer.
    """
    first = await stream.part()
    return _events(stream, first, of_part, of_answer, state)


async def _events(
    stream: PartStream,
    part: Part | None,
    of_part: Callable[[Part, bool], Iterator[BaseModel]],
    of_answer: Callable[[Answer], BaseModel],
    state: MutableMapping[str, Any],
) -> AsyncIterator[bytes]:
    began = False
    try:
        while part is not None:
            for event in of_part(part, began):
                yield _event(event.model_dump_json(exclude_none=True))
            began = began or bool(part.transcript.text)
            part = await stream.part()
        yield _event(of_answer(await stream.answer()).model_dump_json(exclude_none=True))
    except Exception as error:  # the status line is gone: the error can only be told as an event
        yield _event(bytes(error_response(error, state).body).decode())
    finally:
        stream.close()


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()
