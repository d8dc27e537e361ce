"""A process that decodes recordings for another: python -m asr.audio_worker FD (`service.audio_pool`).

It reads requests from a socket and writes samples to it, one recording after another, and ends when the
socket does. FFmpeg reads what strangers made; when that kills a process, it is this one.

A request: 4 bytes, its length; JSON with `inline` (bytes that follow, or null where the content is a file
descriptor that came along), `raw`, `channel`, `max_duration_s`. Answers: a letter, 4 bytes, a length,
content: C the seconds that the header claims (JSON), S samples (float32), E the end (JSON, channels), X an
error (JSON, class and message).
"""

import contextlib
import ctypes
import gc
import io
import json
import os
import resource
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from asr.audio import AudioFile, Samples, count_channels, read_pieces
from asr.errors import AudioError
from asr.raw_audio import RawAudio

HEAD = struct.Struct("<I")
ANSWER = struct.Struct("<cI")
MAX_MEMORY = 3 * 1024**3  # bytes of address space; libraries take half a gigabyte of it
MESSAGE = 1024 * 1024  # bytes, 16 s
SENT_AHEAD = 512 * 1024  # bytes that the other side need not have taken yet, as far as the system allows
MOST_PARTS = 512  # that the system takes at once
KEPT_MEMORY = 32 * 1024**2  # bytes that recordings may leave behind: asked for again, they cost time


def main(fd: int) -> None:
    _confine()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    gc.freeze()  # modules are not looked through again and again
    usual = _resident() if trim is not None else 0
    with socket.socket(fileno=fd) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_AHEAD)
        while (request := _request(link)) is not None:
            _serve(link, *request)
            del request
            # One strange file must not leave its peak behind for ever.
            if trim is not None and _resident() - usual > KEPT_MEMORY:
                trim(0)


def _resident() -> int:
    """Bytes of memory that the process holds; where there is glibc, there is Linux' /proc."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _confine() -> None:
    """No file can be written, no core dumped, and memory has an end."""
    for limit, value in (
        (resource.RLIMIT_AS, MAX_MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _request(link: socket.socket) -> tuple[dict[str, Any], BinaryIO] | None:
    """The next request and its content; None when nobody asks any more."""
    head, fds, _, _ = socket.recv_fds(link, HEAD.size, 1)
    if not head:
        return None
    asked = json.loads(received(link, HEAD.unpack(head + received(link, HEAD.size - len(head)))[0]))
    if asked["inline"] is not None:
        return asked, io.BytesIO(received(link, asked["inline"]))
    return asked, os.fdopen(fds[0], "rb")


def _serve(link: socket.socket, asked: dict[str, Any], content: BinaryIO) -> None:
    raw = None if asked["raw"] is None else RawAudio(**asked["raw"])
    file = AudioFile(content, raw, asked["channel"])
    with content:
        try:
            if asked["max_duration_s"] is None:
                _answer(link, b"E", json.dumps(count_channels(file)).encode())
                return

            def on_claim(seconds: float) -> None:
                _answer(link, b"C", json.dumps(seconds).encode())

            pieces = read_pieces(file, max_duration_s=asked["max_duration_s"], on_claim=on_claim)
            for samples in _gathered(pieces):
                _answer(link, b"S", *samples)
            _answer(link, b"E", b"0")
        except BrokenPipeError:
            sys.exit(0)
        except AudioError as error:
            _answer(link, b"X", json.dumps([type(error).__name__, str(error)]).encode())
        except Exception as error:
            _answer(link, b"X", json.dumps(["", repr(error)]).encode())


def _gathered(pieces: Iterator[Samples]) -> Iterator[list[memoryview]]:
    """In few messages: each wakes the other side up."""
    found: list[memoryview] = []
    n_bytes = 0
    for piece in pieces:
        if not len(piece):
            continue
        found.append(np.ascontiguousarray(piece).data.cast("B"))
        n_bytes += piece.nbytes
        if n_bytes >= MESSAGE:
            yield found
            found, n_bytes = [], 0
    if found:
        yield found


def _answer(link: socket.socket, kind: bytes, *parts: bytes | memoryview) -> None:
    """One message, sent from where its parts lie."""
    left = [memoryview(part) for part in (ANSWER.pack(kind, sum(map(len, parts))), *parts)]
    while left:
        sent, whole = link.sendmsg(left[:MOST_PARTS]), 0
        while whole < len(left) and sent >= len(left[whole]):
            sent -= len(left[whole])
            whole += 1
        del left[:whole]
        if left:
            left[0] = left[0][sent:]


def received(link: socket.socket, size: int) -> bytearray:
    """Exactly so many bytes. Raises EOFError when the other side is gone."""
    content = bytearray(size)
    view, n_read = memoryview(content), 0
    while n_read < size:
        n = link.recv_into(view[n_read:])
        if not n:
            raise EOFError("the other side closed the link")
        n_read += n
    return content


if __name__ == "__main__":
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        main(int(sys.argv[1]))
