"""Delay and cost of streams: python -m bench.stream [--seconds 120] [--streams 1 4]

Joined utterances are sent to a running service in real time, 100 ms a message, on so many streams at once.
For each word of a final message: how long after its end (as the service placed it) a message first had a word
in its place (`shown`); for the last word of each: how long until it was `final`, or `finished` after the
sender was done. Cost: CPU seconds of the service per second of audio,
decoding processes included. Results go to bench/results/stream.json.
"""

import argparse
import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect

from asr.audio import SAMPLE_RATE, read_audio
from bench.server_process import Server, served
from training.manifest import read_bytes, read_manifest

RESULTS = Path(__file__).parent / "results" / "stream.json"
MESSAGE_S = 0.1


@dataclass
class Delays:
    """Seconds after a word's end."""

    shown: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)  # of a segment's last word
    finished: list[float] = field(default_factory=list)  # the same, once all is sent


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, default=Path("data/test/manifest.jsonl"))
    parser.add_argument("--set", default="libri")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--decoder", default="beam_lm")
    args = parser.parse_args(argv)
    utterances = [u for u in read_manifest(args.manifest) if u.set == args.set]
    samples = np.concatenate([read_audio(read_bytes(u), max_duration_s=60) for u in utterances[:60]])
    content = (np.resize(samples, round(args.seconds * SAMPLE_RATE)) * 32767).astype("<i2").tobytes()
    rows = {}
    with served({"ASR_BUNDLE": str(args.bundle)}) as server:
        for n_streams in args.streams:
            rows[str(n_streams)] = _measure(server, content, n_streams, args.decoder)
            print(n_streams, rows[str(n_streams)], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"decoder": args.decoder, "streams": rows}, indent=2) + "\n", encoding="utf-8"
    )


def _measure(server: Server, content: bytes, n_streams: int, decoder: str) -> dict[str, Any]:
    before_s = _cpu_s(server)
    found = asyncio.run(_all(server.address, content, n_streams, decoder))
    audio_s = n_streams * len(content) / 2 / SAMPLE_RATE
    row: dict[str, Any] = {"cpu_per_audio_s": round((_cpu_s(server) - before_s) / audio_s, 3)}
    for kind in ("shown", "final", "finished"):
        values = [value for delays in found for value in getattr(delays, kind)]
        if values:
            row[f"{kind}_s"] = {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 100)}
    return row


async def _all(address: str, content: bytes, n_streams: int, decoder: str) -> list[Delays]:
    # Not in step: streams that begin together would also pause together.
    return await asyncio.gather(*(_one(address, content, decoder, i * 0.37) for i in range(n_streams)))


async def _one(address: str, content: bytes, decoder: str, wait_s: float) -> Delays:
    await asyncio.sleep(wait_s)
    delays = Delays()
    url = f"{address.replace('http', 'ws')}/v1/stream?decoder={decoder}"
    async with connect(url) as socket:
        began = time.perf_counter()
        sending = asyncio.create_task(_send(socket, content, began))
        seen: dict[tuple[int, int], float] = {}  # (segment, place) -> when a word was first shown there
        async for message in socket:
            now = time.perf_counter() - began
            told = json.loads(message)
            if told["type"] == "error":
                raise RuntimeError(told["error"]["message"])
            words = told.get("words", ())
            for place, word in enumerate(words):
                key = (told["segment"], place)
                seen.setdefault(key, now)
                if told["type"] == "final":
                    delays.shown.append(max(0.0, seen[key] - word["end_s"]))
            if words and told["type"] == "final":
                (delays.finished if sending.done() else delays.final).append(now - words[-1]["end_s"])
        await sending
    return delays


async def _send(socket: Any, content: bytes, began: float) -> None:
    size = round(MESSAGE_S * SAMPLE_RATE) * 2
    for i, start in enumerate(range(0, len(content), size)):
        await asyncio.sleep(max(0.0, began + (i + 1) * MESSAGE_S - time.perf_counter()))
        await socket.send(content[start : start + size])
    await socket.send('{"type": "finish"}')


def _cpu_s(server: Server) -> float:
    """CPU seconds of the service and its children so far."""
    ticks = 0
    for pid in server.pids():
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
