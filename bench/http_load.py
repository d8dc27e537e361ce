"""A light HTTP client for load: requests are bytes made beforehand, one kept connection per caller."""

import asyncio
import base64
import json
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

PROBE_S = 0.02  # between two health checks
_BOUNDARY = "sound"


@dataclass(frozen=True)
class Load:
    """What is posted, by how many at once."""

    bodies: Sequence[bytes]
    callers: int
    decoder: str
    degrade: bool = False
    as_json: bool = False  # with the recording in base64: LitServe's worker processes take no files


@dataclass(frozen=True)
class Reply:
    status: int
    seconds: float
    body: dict[str, Any] = field(default_factory=dict)


async def push(port: int, load: Load) -> list[Reply]:
    """A reply for each body, in their order; refused recordings count as failed and are not sent again."""
    replies: list[Reply | None] = [None] * len(load.bodies)
    numbers = iter(range(len(load.bodies)))
    path = f"/transcribe?decoder={load.decoder}&degrade={str(load.degrade).lower()}"

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            recording = load.bodies[number]
            request = _post_json(load.decoder, recording) if load.as_json else _post(path, recording)
            started = time.perf_counter()
            writer.write(request)
            status, content = await _answer(reader)
            seconds = time.perf_counter() - started
            replies[number] = Reply(status, seconds, json.loads(content) if status == 200 else {})
        writer.close()

    await asyncio.gather(*(caller() for _ in range(load.callers)))
    return [reply for reply in replies if reply is not None]


async def health_while(port: int, load: Coroutine[Any, Any, list[Reply]]) -> list[float]:
    """Seconds of health checks on a connection of their own while the load goes on."""
    pushing = asyncio.ensure_future(load)
    seconds = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not pushing.done():
        started = time.perf_counter()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, _ = await _answer(reader)
        assert status == 200
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(PROBE_S)
    writer.close()
    await pushing
    return seconds


async def status_of(port: int, path: str) -> int:
    """Of one request; 0 where nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status, _ = await _answer(reader)
        writer.close()
    except (OSError, asyncio.IncompleteReadError):
        return 0
    return status


def _post(path: str, recording: bytes) -> bytes:
    before = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    body = before + recording + f"\r\n--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n\r\n"
    )
    return head.encode() + body


def _post_json(decoder: str, recording: bytes) -> bytes:
    body = json.dumps({"audio": base64.b64encode(recording).decode(), "decoder": decoder})
    head = (
        f"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\n\r\n"
    )
    return (head + body).encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of an answer with a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    lengths = [int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")]
    return int(lines[0].split()[1]), await reader.readexactly(lengths[0] if lengths else 0)
