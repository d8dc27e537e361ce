"""Decoding recordings in other processes, so that one that kills its decoder does not kill the service.

The samples are `asr.audio.read_pieces`' own. A process decodes many recordings, one at a time; it is replaced
when it dies, hangs, or its recording is not wanted any more half-way.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asr import errors
from asr.audio import AudioFile, Samples, Source
from asr.audio_worker import ANSWER, HEAD, received
from asr.errors import EmptyAudioError, UnreadableAudioError

COMMAND = (sys.executable, "-m", "asr.audio_worker")
PATIENCE_S = 60.0  # for the next message; decoding is hundreds of times faster than speaking
INLINE = 4 * 1024 * 1024  # bytes sent through the link where there is no file to pass
_ROOT = Path(__file__).resolve().parents[1]
_KEPT_VARIABLES = ("PATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "LD_LIBRARY_PATH")


class AudioPool:
    """As many processes as recordings are being read, and at most `max_idle` that wait for the next."""

    def __init__(
        self,
        max_idle: int,
        *,
        on_death: Callable[[], None] = lambda: None,
        command: Sequence[str] = COMMAND,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """on_death: called when a process died or hung with a recording."""
        self._max_idle = max_idle
        self._on_death = on_death
        self._command = tuple(command)
        self._patience_s = patience_s
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def warm(self) -> None:
        """Start the processes that wait; they are ready some time later."""
        for _ in range(self._max_idle):
            self._give_back(_Worker(self._command, self._patience_s), sound=True)

    def read_pieces(
        self, source: Source, *, max_duration_s: float, on_claim: Callable[[float], None] | None = None
    ) -> Iterator[Samples]:
        """As `asr.audio.read_pieces`; UnreadableAudioError too for what kills or hangs its decoder."""
        for kind, content in self._asked(source, max_duration_s):
            if kind == b"S":
                yield np.frombuffer(content, dtype=np.float32)
            elif kind == b"C" and on_claim is not None:
                on_claim(json.loads(content))

    def count_channels(self, source: Source) -> int:
        """As `asr.audio.count_channels`."""
        ((_, content),) = self._asked(source, None)
        return int(json.loads(content))

    def close(self) -> None:
        """End the processes that wait; those at work end with their recording."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _asked(self, source: Source, max_duration_s: float | None) -> Iterator[tuple[bytes, bytearray]]:
        """A worker's answers. Raises AudioError."""
        file = source if isinstance(source, AudioFile) else AudioFile(source)
        worker = self._worker()
        sound = False  # whether the worker can be used again
        try:
            worker.ask(file, max_duration_s)
            while True:
                kind, content = worker.answer()
                if kind == b"X":
                    sound = True
                    raise _error(*json.loads(content))
                if kind == b"E":
                    sound = True
                    if max_duration_s is None:
                        yield kind, content
                    return
                yield kind, content
        except (EOFError, OSError) as error:
            self._on_death()
            raise UnreadableAudioError(
                "the file is not audio that we can read: its decoder failed"
            ) from error
        finally:
            self._give_back(worker, sound)

    def _worker(self) -> "_Worker":
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Worker(self._command, self._patience_s)

    def _give_back(self, worker: "_Worker", sound: bool) -> None:
        with self._lock:
            if sound and not self._closed and len(self._idle) < self._max_idle:
                self._idle.append(worker)
                return
        worker.end()


class _Worker:
    """One process and the link to it."""

    def __init__(self, command: Sequence[str], patience_s: float) -> None:
        self._link, theirs = socket.socketpair()
        self._link.settimeout(patience_s)
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=_ROOT,
                env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, file: AudioFile, max_duration_s: float | None) -> None:
        """Raises EmptyAudioError, UnreadableAudioError, OSError."""
        with _content(file) as (inline, fd):
            request = {
                "inline": None if inline is None else len(inline),
                "raw": None if file.raw is None else asdict(file.raw),
                "channel": file.channel,
                "max_duration_s": max_duration_s,
            }
            message = json.dumps(request).encode()
            socket.send_fds(self._link, [HEAD.pack(len(message))], [] if fd is None else [fd])
            self._link.sendall(message)
            if inline is not None:
                self._link.sendall(inline)

    def answer(self) -> tuple[bytes, bytearray]:
        """Raises EOFError when the process is dead, OSError when it hangs."""
        kind, size = ANSWER.unpack(received(self._link, ANSWER.size))
        return kind, received(self._link, size)

    def end(self) -> None:
        self._link.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def _content(file: AudioFile) -> Iterator[tuple[bytes | None, int | None]]:
    """The bytes themselves, or a descriptor of the file that has them.

    Raises EmptyAudioError, UnreadableAudioError.
    """
    content = file.content
    if isinstance(content, bytes):
        if not content:
            raise EmptyAudioError("the file is empty")
        yield content, None
    elif isinstance(content, str | Path):
        path = Path(content)
        if not path.is_file():
            raise UnreadableAudioError(f"{path.name} is not a file")
        with path.open("rb") as opened:
            yield None, opened.fileno()
    elif content.seek(0, os.SEEK_END) > INLINE and (fd := _descriptor(content)) is not None:
        yield None, fd
    else:  # small ones have no descriptor until they are asked for it: then they would be written to disk
        content.seek(0)
        yield content.read(), None


def _descriptor(content: BinaryIO) -> int | None:
    try:
        return content.fileno()
    except OSError:
        return None


def _error(name: str, message: str) -> Exception:
    """An exception of `asr.errors` by name; anything else is a fault of ours."""
    kind: Any = getattr(errors, name, None)
    return kind(message) if kind is not None else RuntimeError(message)
