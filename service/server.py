"""uvicorn's server, which here refuses recordings from the moment that it is told to stop."""

import signal
from collections.abc import Callable
from types import FrameType

import uvicorn


class Server(uvicorn.Server):
    """On SIGTERM and SIGINT: `stop_admitting` first, then what uvicorn does.

    It finishes the requests that it has begun to read. Those whose upload is still under way would be let in
    after the signal, and delay the end by all of their work. A SIGTERM that was obeyed is no failure: uvicorn
    would raise it again at the end, and the process would seem to have been killed.
    """

    def __init__(self, config: uvicorn.Config, stop_admitting: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop_admitting = stop_admitting

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stop_admitting()
        super().handle_exit(sig, frame)
        if sig == signal.SIGTERM:
            self._captured_signals.remove(sig)
