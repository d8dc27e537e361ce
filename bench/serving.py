"""The service against other servers of the same Transcriber: ASR_DATA=../shared/data python -m bench.serving

Real recordings (the test set below ASR_DATA, or a prepared manifest) are posted by so many callers at once,
each sending its next as soon as it has its answer, over loopback from one light client process on the same
cores. The servers are processes of their own, with one torch thread per thread of work:

- ours: `asr-sound serve`
- plain: a FastAPI handler that transcribes one request at a time on a pool of as many threads as cores
- plain_torch: the same, its acoustic model run by torch in float32 instead of by our int16 kernels
- litserve: LitServe with batches of 8 and a worker process per core (pip install litserve; skipped if absent)
- bare: no server, batches of the same recordings through `Transcriber` on as many threads as cores

A machine that others use is never the same for long: so they take turns, round after round, in one order and
the other, and a row is all of a server's rounds together. One is at work, the others stand still. CPU per
answer, of all of a server's processes, hardly depends on what else the machine does.

Then, ours alone: `/healthz` while 64 callers push, and what stepping down to lesser decoders costs in errors
and wins in waiting. Prints tables, writes bench/results/serving.json.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from asr.audio import SAMPLE_RATE, read_audio
from asr.scoring import word_error_rate
from bench.http_load import Load, health_while, push
from bench.real_time import _utterances
from bench.serving_process import Bare, Served, serve
from training.manifest import Utterance, read_bytes

RESULTS = Path(__file__).parent / "results" / "serving.json"
DECODERS = ("greedy", "beam_lm")
CALLERS = (8, 32)
PUSHERS = 64


@dataclass(frozen=True)
class Row:
    """One server under one load, all rounds together."""

    server: str
    decoder: str
    callers: int  # 0: of bare, which has none
    per_s: float  # answers a second
    least_per_s: float  # of a round
    most_per_s: float
    cpu_ms: float  # of an answer
    p50_s: float
    p99_s: float
    failed: int
    memory_mib: float
    ready_s: float


@dataclass(frozen=True)
class Round:
    """One server under one load, once."""

    took_s: float
    cpu_s: float
    seconds: Sequence[float]  # of each good answer
    failed: int = 0

    @property
    def per_s(self) -> float:
        return len(self.seconds) / self.took_s


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, help="default: speech/test below ASR_DATA")
    parser.add_argument("--requests", type=int, default=64, help="of each server in each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--servers", nargs="+", default=["ours", "plain", "plain_torch", "litserve", "bare"])
    args = parser.parse_args(argv)
    servers = [name for name in args.servers if name != "litserve" or find_spec("litserve")]
    chosen = _utterances(args.manifest, args.requests)[: args.requests]
    bodies = [read_bytes(utterance) for utterance in chosen]
    began = time.perf_counter()
    rows = asyncio.run(_compare(servers, args.bundle, chosen, args.rounds))
    health_ms = asyncio.run(_health(args.bundle, bodies))
    degrading = asyncio.run(_degrading(args.bundle, chosen, bodies))
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "bundle": str(args.bundle),
        "commit": _commit(),
        "recordings": len(bodies),
        "rounds": args.rounds,
        "mean_duration_s": round(float(np.mean([_duration_s(body) for body in bodies])), 2),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "rows": [asdict(row) for row in rows],
        "health_p95_ms": health_ms,
        "degrading": degrading,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _show(rows, result)


async def _compare(
    names: Sequence[str], bundle: Path, chosen: Sequence[Utterance], n_rounds: int
) -> list[Row]:
    """All servers under every load, in turns."""
    bodies = [read_bytes(utterance) for utterance in chosen]
    bare = Bare(bundle, chosen) if "bare" in names else None
    gc.freeze()  # the client's own memory is looked through while others are measured
    async with AsyncExitStack() as running:
        servers: dict[str, Served] = {}
        for name in names:
            if name != "bare" and (served := await _started(name, bundle, bodies, running)) is not None:
                servers[name] = served
        loads = [(decoder, callers) for decoder in DECODERS for callers in CALLERS]
        turns = [(name, *load) for load in loads for name in servers]
        turns += [("bare", decoder, 0) for decoder in DECODERS if bare is not None]
        rounds: dict[tuple[str, str, int], list[Round]] = {turn: [] for turn in turns}
        for number in range(n_rounds + 1):
            for turn in turns[:: -1 if number % 2 else 1]:
                name, decoder, callers = turn
                if bare is not None and name == "bare":
                    found = _bare_round(bare, decoder, len(bodies))
                else:
                    found = await _round(
                        servers[name], Load(bodies, callers, decoder, as_json=name == "litserve")
                    )
                if number:  # in the first one, libraries warm up
                    rounds[turn].append(found)
                    print(number, *turn, f"{found.per_s:.1f}/s", flush=True)
        return [_row(turn, rounds[turn], servers.get(turn[0])) for turn in turns]


async def _started(
    name: str, bundle: Path, bodies: Sequence[bytes], running: AsyncExitStack
) -> Served | None:
    """A server that stands still; None when it does not start: its fault is no reason to lose our figures."""
    try:
        served = await running.enter_async_context(serve(name, bundle))
    except (RuntimeError, OSError) as error:
        print(f"{name} is left out: {error!r}", flush=True)
        return None
    with served.at_work():
        await push(served.port, Load(bodies[:8], 4, DECODERS[0], as_json=name == "litserve"))
    return served


async def _round(served: Served, load: Load) -> Round:
    with served.at_work():
        started, worked_s = time.perf_counter(), served.cpu_s()
        replies = await push(served.port, load)
        took_s, worked_s = time.perf_counter() - started, served.cpu_s() - worked_s
    good = [reply.seconds for reply in replies if reply.status == 200]
    return Round(took_s, worked_s, good, len(replies) - len(good))


def _bare_round(bare: Bare, decoder: str, n_recordings: int) -> Round:
    """Without callers, nobody waits."""
    took_s, cpu_s = bare.run(decoder)
    return Round(took_s, cpu_s, [0.0] * n_recordings)


def _row(turn: tuple[str, str, int], rounds: Sequence[Round], served: Served | None) -> Row:
    seconds = sorted(s for one in rounds for s in one.seconds)
    return Row(
        *turn,
        per_s=round(len(seconds) / sum(one.took_s for one in rounds), 2),
        least_per_s=round(min(one.per_s for one in rounds), 2),
        most_per_s=round(max(one.per_s for one in rounds), 2),
        cpu_ms=round(1000 * sum(one.cpu_s for one in rounds) / max(1, len(seconds)), 2),
        p50_s=_share(seconds, 0.5),
        p99_s=_share(seconds, 0.99),
        failed=sum(one.failed for one in rounds),
        memory_mib=served.memory_mib() if served else 0.0,
        ready_s=served.ready_s if served else 0.0,
    )


def _duration_s(body: bytes) -> float:
    """Of a recording; manifests need not say it."""
    return len(read_audio(body, max_duration_s=3600.0)) / SAMPLE_RATE


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
    titles = ("answers/s", "least", "most", "CPU ms", "p50 s", "p99 s", "failed", "MiB", "ready s")
    table = Table("server", "decoder", "callers", *titles)
    for row in rows:
        table.add_row(*(str(value) for value in asdict(row).values()))
    console = Console(width=130)
    console.print(table)
    for key in ("health_p95_ms", "degrading", "minutes"):
        console.print(f"{key}: {result[key]}")


if __name__ == "__main__":
    sys.exit(main())
