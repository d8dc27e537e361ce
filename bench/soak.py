"""Everything at once, for long: python -m bench.soak [--requests 20000] [--callers 8] [--longest 6]

So many requests of all kinds against a running service: recordings of every format by every decoder, with
hotwords and posted texts that change, OpenAI's endpoint with and without streaming, jobs, WebSocket streams,
rubbish, callers who leave. Every answer must be one that is allowed for its kind (a full service may say so),
and memory, of the service and its decoding processes together, must be flat: over the second half of the
requests, the line through its samples may rise by `MAX_SLOPE` at the most. Caches fill up in the first half.
Results go to bench/results/soak.json, after every fiftieth of the way; exits with 1 when one of these does
not hold.
"""

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
from websockets.sync.client import connect

from asr.decoding.options import DECODERS
from bench.server_process import Server, served
from tests.test_audio import FORMATS, encoded
from training.manifest import read_bytes, read_manifest

RESULTS = Path(__file__).parent / "results" / "soak.json"
MAX_SLOPE = 2.0  # MiB per 1,000 requests, over the second half
SAMPLES = 50
BUSY = (429, 503)
TIMEOUT_S = 120.0

Request = Callable[[Server, list[bytes], random.Random], str]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, default=Path("data/test/manifest.jsonl"))
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds of a recording, at the most")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    recordings = _recordings(args.manifest, args.longest)
    memory: list[float] = []
    outcomes: Counter[str] = Counter()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"ASR_BUNDLE": str(args.bundle), "ASR_JOBS_DIR": folder, "ASR_MAX_JOBS": "1000000"}
        with served(settings) as server, ThreadPoolExecutor(args.callers) as callers:
            step = max(1, args.requests // SAMPLES)
            for start in range(0, args.requests, step):
                seeds = range(start, min(start + step, args.requests))
                outcomes.update(callers.map(lambda seed: _ask(server, recordings, seed), seeds))
                memory.append(round(server.memory_mib(), 1))
                slope, error = slope_of(memory[len(memory) // 2 :], step)
                result = {
                    "requests": seeds.stop,
                    "callers": args.callers,
                    "seconds": round(time.perf_counter() - began),
                    "outcomes": dict(sorted(outcomes.items())),
                    "memory_mib": memory,
                    "slope_mib_per_1000_requests": round(slope, 2),
                    "slope_standard_error": round(error, 2),
                    "flat": slope <= MAX_SLOPE,
                }
                args.results.parent.mkdir(exist_ok=True)
                args.results.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
                print(
                    f"{seeds.stop} requests, {memory[-1]} MiB, slope {slope:.2f} +- {error:.2f}, "
                    f"{time.perf_counter() - began:.0f} s",
                    flush=True,
                )
    print(json.dumps(result, indent=2))
    if not result["flat"] or any(name.endswith("wrong") for name in outcomes):
        sys.exit("failed")


def slope_of(memory: Sequence[float], step: int) -> tuple[float, float]:
    """Least squares over samples that lie so many requests apart: MiB per 1,000 requests, standard error."""
    if len(memory) < 3:
        return 0.0, math.inf
    thousands = np.arange(len(memory)) * step / 1000
    slope, offset = np.polyfit(thousands, memory, 1)
    residuals = np.asarray(memory) - (slope * thousands + offset)
    spread = np.sum((thousands - thousands.mean()) ** 2)
    return float(slope), float(np.sqrt(np.sum(residuals**2) / (len(memory) - 2) / spread))


def _recordings(manifest: Path, longest_s: float) -> list[bytes]:
    """Speech, and as many tones of every format that is read."""
    speech = [read_bytes(u) for u in read_manifest(manifest) if u.duration_s <= longest_s]
    tones = [encoded(*spec, seconds=0.5 + 0.1 * place) for place, spec in enumerate(FORMATS.values())]
    return [*speech[:: max(1, len(speech) // (4 * len(tones)))], *tones]


def _ask(server: Server, recordings: list[bytes], seed: int) -> str:
    """`kind status`, and `wrong` where it should not be."""
    rng = random.Random(seed)
    kind = rng.choices(list(KINDS), [weight for _, weight, _ in KINDS.values()])[0]
    request, _, allowed = KINDS[kind]
    try:
        outcome = request(server, recordings, rng)
    except Exception as error:
        return f"{kind} {type(error).__name__} wrong"
    right = outcome in map(str, (*allowed, *BUSY))
    return f"{kind} {outcome}" + ("" if right else " wrong")


def _transcribe(server: Server, recordings: list[bytes], rng: random.Random) -> str:
    query = {
        "decoder": rng.choice([*DECODERS, "all"]),
        "nbest": rng.choice([0, 5, 50]),
        "timestamps": rng.choice(["none", "word"]),
        "hotwords": [_word(rng) for _ in range(rng.choice([0, 0, 1, 3, 30]))],
        "channels": rng.choice(["mixed", "mixed", "separate"]),
        "degrade": rng.choice(["true", "false"]),
    }
    form = {"lm_text": " ".join(_word(rng) for _ in range(200))} if rng.random() < 0.05 else None
    return _post(f"{server.address}/transcribe", rng.choice(recordings), params=query, data=form)


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 10)))


def _openai(server: Server, recordings: list[bytes], rng: random.Random) -> str:
    form = {"model": "whisper-1", "response_format": rng.choice(["json", "srt", "verbose_json"])}
    return _post(f"{server.address}/v1/audio/transcriptions", rng.choice(recordings), data=form)


def _openai_stream(server: Server, recordings: list[bytes], rng: random.Random) -> str:
    form = {"model": "whisper-1", "stream": "true"}
    return _post(f"{server.address}/v1/audio/transcriptions", rng.choice(recordings), data=form)


def _job(server: Server, recordings: list[bytes], rng: random.Random) -> str:
    """A job, looked at or waited for a moment, and forgotten."""
    response = httpx2.post(
        f"{server.address}/v1/jobs?decoder=greedy", files={"file": rng.choice(recordings)}, timeout=TIMEOUT_S
    )
    if response.status_code != 202:
        return str(response.status_code)
    address = server.address + response.headers["Location"]
    for _ in range(rng.randint(0, 5)):
        if httpx2.get(address, timeout=TIMEOUT_S).json()["status"] in ("done", "failed"):
            break
        time.sleep(0.05)
    return str(httpx2.delete(address, timeout=TIMEOUT_S).status_code)


def _stream(server: Server, _: list[bytes], rng: random.Random) -> str:
    samples = np.random.default_rng(rng.randrange(2**31)).standard_normal(rng.randint(1, 80_000)) * 3000
    content = samples.astype("<i2").tobytes()
    with connect(f"{server.address.replace('http', 'ws')}/v1/stream?decoder=greedy") as socket:
        for start in range(0, len(content), 32_000):
            socket.send(content[start : start + 32_000])
        if rng.random() < 0.2:
            return "left"
        socket.send('{"type": "finish"}')
        last = [json.loads(message) for message in socket][-1]
    return str(last["type"]) if last["type"] != "error" else str(last["error"]["code"])


def _rubbish(server: Server, recordings: list[bytes], rng: random.Random) -> str:
    content = rng.choice([b"", b"RIFF", rng.randbytes(5000), rng.choice(recordings)[:30], b"{}" * 400])
    return _post(f"{server.address}/transcribe", content)


def _leave(server: Server, recordings: list[bytes], rng: random.Random) -> str:
    """A caller who does not wait for the answer."""
    try:
        httpx2.post(
            f"{server.address}/transcribe",
            files={"file": rng.choice(recordings)},
            timeout=httpx2.Timeout(TIMEOUT_S, read=rng.uniform(0.001, 0.1)),
        )
    except httpx2.TimeoutException:
        return "left"
    return "200"


def _post(url: str, content: bytes, **more: object) -> str:
    response = httpx2.post(url, files={"file": content}, timeout=TIMEOUT_S, **more)  # type: ignore[arg-type]
    return str(response.status_code)


KINDS: dict[str, tuple[Request, int, tuple[int | str, ...]]] = {
    "transcribe": (_transcribe, 50, (200,)),
    "openai": (_openai, 10, (200,)),
    "openai_stream": (_openai_stream, 5, (200,)),
    "job": (_job, 8, (204,)),
    "stream": (_stream, 5, ("done", "left", "too_many_streams", "busy")),
    "rubbish": (_rubbish, 10, (400, 415)),
    "leave": (_leave, 12, ("left", 200)),
}


if __name__ == "__main__":
    main()
