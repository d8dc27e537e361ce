"""The service against other servers of the same Transcriber: ASR_DATA=../shared/data python -m bench.serving

Real recordings (the test set below ASR_DATA, or a prepared manifest) are posted by so many callers at once,
each sending its next as soon as it has its answer, over loopback from one light client process on the same
cores. The servers, one after the other, each a process of its own with one torch thread per thread of work:

- ours: `asr-sound serve`
- plain: a FastAPI handler that transcribes one request at a time on a pool of as many threads as cores
- plain_torch: the same, its acoustic model run by torch in float32 instead of by our int16 kernels
- litserve: LitServe with batches of 8 and a worker process per core (pip install litserve; skipped if absent)
- bare: no server, batches of the same recordings through `Transcriber` on as many threads as cores

Then, ours alone: `/healthz` while 64 callers push, seconds from start to ready, memory, and what stepping
down to lesser decoders costs in errors and wins in waiting. Prints tables, writes bench/results/serving.json.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from asr.audio import SAMPLE_RATE, read_audio
from asr.scoring import word_error_rate
from bench.http_load import Load, Reply, health_while, push
from bench.real_time import _utterances
from bench.serving_process import Served, bare_throughput, serve
from training.manifest import Utterance, read_bytes

RESULTS = Path(__file__).parent / "results" / "serving.json"
DECODERS = ("greedy", "beam_lm")
CALLERS = (8, 32)
PUSHERS = 64


@dataclass(frozen=True)
class Row:
    """One server under one load."""

    server: str
    decoder: str
    callers: int
    per_s: float  # answers a second
    p50_s: float
    p99_s: float
    failed: int
    memory_mib: float
    ready_s: float


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, help="default: speech/test below ASR_DATA")
    parser.add_argument("--requests", type=int, default=128, help="of each measurement")
    parser.add_argument("--servers", nargs="+", default=["ours", "plain", "plain_torch", "litserve"])
    args = parser.parse_args(argv)
    servers = [name for name in args.servers if name != "litserve" or find_spec("litserve")]
    chosen = _utterances(args.manifest, args.requests)[: args.requests]
    bodies = [read_bytes(utterance) for utterance in chosen]
    rows, began = [], time.perf_counter()
    for name in servers:
        try:
            rows += asyncio.run(_measure(name, args.bundle, bodies))
        except (RuntimeError, OSError) as error:  # another server's fault is no reason to lose our figures
            print(f"{name} is left out: {error!r}", flush=True)
    bare = {decoder: bare_throughput(args.bundle, chosen, decoder) for decoder in DECODERS}
    health_ms = asyncio.run(_health(args.bundle, bodies))
    degrading = asyncio.run(_degrading(args.bundle, chosen, bodies))
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "bundle": str(args.bundle),
        "commit": _commit(),
        "recordings": len(bodies),
        "mean_duration_s": round(float(np.mean([_duration_s(body) for body in bodies])), 2),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "rows": [asdict(row) for row in rows],
        "bare_per_s": bare,
        "health_p95_ms": health_ms,
        "degrading": degrading,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _show(rows, result)


async def _measure(name: str, bundle: Path, bodies: list[bytes]) -> list[Row]:
    """One server, warmed up, under every load."""
    async with serve(name, bundle) as served:
        rows = []
        for decoder in DECODERS:
            as_json = name == "litserve"
            await push(served.port, Load(bodies[:8], 4, decoder, as_json=as_json))  # libraries warm up
            for callers in CALLERS:
                started = time.perf_counter()
                replies = await push(served.port, Load(bodies, callers, decoder, as_json=as_json))
                rows.append(_row(served, decoder, callers, replies, time.perf_counter() - started))
                print(rows[-1], flush=True)
        return rows


def _duration_s(body: bytes) -> float:
    """Of a recording; manifests need not say it."""
    return len(read_audio(body, max_duration_s=3600.0)) / SAMPLE_RATE


def _row(served: Served, decoder: str, callers: int, replies: list[Reply], took_s: float) -> Row:
    good = sorted(reply.seconds for reply in replies if reply.status == 200)
    return Row(
        served.name,
        decoder,
        callers,
        per_s=round(len(good) / took_s, 2),
        p50_s=_share(good, 0.5),
        p99_s=_share(good, 0.99),
        failed=len(replies) - len(good),
        memory_mib=served.memory_mib(),
        ready_s=served.ready_s,
    )


async def _health(bundle: Path, bodies: list[bytes]) -> float:
    """95th percentile of `/healthz`, in milliseconds, while `PUSHERS` callers push."""
    async with serve("ours", bundle) as served:
        load = Load(bodies * 2, PUSHERS, "beam_lm_rescore")
        seconds = await health_while(served.port, push(served.port, load))
        return round(1000 * _share(sorted(seconds), 0.95), 1)


async def _degrading(bundle: Path, chosen: list[Utterance], bodies: list[bytes]) -> dict[str, object]:
    """Waiting and errors with and without stepping down, `PUSHERS` callers asking for rescoring."""
    found: dict[str, object] = {}
    async with serve("ours", bundle, {"ASR_LATENCY_TARGET_S": "1"}) as served:
        await push(served.port, Load(bodies[:8], 4, "beam_lm_rescore"))
        for name, degrade in (("degrade=true", True), ("degrade=false", False)):
            replies = await push(served.port, Load(bodies, PUSHERS, "beam_lm_rescore", degrade))
            good = [(u, r) for u, r in zip(chosen, replies, strict=True) if r.status == 200]
            found[name] = {
                "p99_s": _share(sorted(reply.seconds for _, reply in good), 0.99),
                "failed": len(replies) - len(good),
                "used": dict(Counter(reply.body["decoder"] for _, reply in good)),
                "wer": {
                    name: round(
                        word_error_rate(
                            [u.text for u, _ in good if u.set == name],
                            [r.body["text"] for u, r in good if u.set == name],
                            resamples=0,
                        ).rate,
                        4,
                    )
                    for name in sorted({u.set for u, _ in good})
                },
            }
    return found


def _share(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else 0.0


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _show(rows: list[Row], result: dict[str, object]) -> None:
    table = Table("server", "decoder", "callers", "answers/s", "p50 s", "p99 s", "failed", "MiB", "ready s")
    for row in rows:
        table.add_row(*(str(value) for value in asdict(row).values()))
    console = Console()
    console.print(table)
    for key in ("bare_per_s", "health_p95_ms", "degrading", "minutes"):
        console.print(f"{key}: {result[key]}")


if __name__ == "__main__":
    sys.exit(main())
