"""The application behind a real HTTP server on a loopback port, for clients with a transport of their own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.app import create_app
from service.cli import MAX_HEADER_BYTES, MAX_MESSAGE_BYTES
from service.settings import Settings
from tests.scripted_speech import ScriptedSpeech, in_one_process, wait_for


@contextmanager
def live_server(speech: ScriptedSpeech | None = None, settings: Settings | None = None) -> Iterator[str]:
    """The base address of a ready service."""
    app = create_app(in_one_process(settings), load=lambda _: speech or ScriptedSpeech())
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        http="h11",
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        wait_for(lambda: not app.state.service.readiness.reasons)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
