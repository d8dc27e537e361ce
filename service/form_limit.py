"""Forms whose fields are bounded together: starlette bounds their number, and each by itself.

Fields that are no files are kept in memory; a posted text may be long, so their product would be too much.
"""

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from service.settings import Settings

MAX_FIELDS = 24  # beside the hotwords: more than any client sends
LONGEST_FIELD = 8192  # bytes of all others beside the hotwords and the text; OpenAI's clients send prompts
BYTES_PER_CHAR = 4  # of UTF-8, at the most


class BoundedForm(MultiPartParser):
    """Raises MultiPartException for more than `max_bytes` in fields that are no files."""

    max_bytes = 0
    _taken = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._taken += end - start
            if self._taken > self.max_bytes:
                raise MultiPartException(f"The form's fields have more than {self.max_bytes} bytes.")
        super().on_part_data(data, start, end)


class FormRoute(APIRoute):
    """A route whose multipart form is read by `BoundedForm`, within the application's settings."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                request._form = await _form(request)
            return await handle(request)

        return read_and_handle


async def _form(request: Request) -> FormData:
    """Raises HTTPException 400 for a form that is broken or has too much in it."""
    settings: Settings = request.app.state.service.settings
    text, hotword = (n * BYTES_PER_CHAR for n in (settings.max_lm_text_chars, settings.max_hotword_chars))
    async with aclosing(request.stream()) as stream:
        parser = BoundedForm(
            request.headers,
            stream,
            max_files=1,
            max_fields=settings.max_hotwords + MAX_FIELDS,
            max_part_size=max(text, hotword, LONGEST_FIELD),
        )
        parser.max_bytes = text + hotword * settings.max_hotwords + LONGEST_FIELD * MAX_FIELDS
        try:
            return await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, error.message) from error
