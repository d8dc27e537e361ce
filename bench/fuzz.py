"""Mutated recordings of every format against a running service: python -m bench.fuzz [--files 10000]

Each file is a short recording of some format with bytes flipped, cut out, repeated, replaced by extremes, or
joined with another format's. Every answer must be a 200 or a 4xx, within `--patience` seconds, the service
must stay healthy, and its memory (decoding processes included) must be flat, as bench/soak.py judges it.
Results go to bench/results/fuzz.json; exits with 1 when one of these does not hold; the offending file is
written to the folder of `--keep`.
"""

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np

from bench.server_process import Server, served
from bench.soak import MAX_SLOPE, slope_of
from tests.test_audio import FORMATS, encoded

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
EXTREMES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\x80")
RAW_TYPES = ("audio/L16;rate=8000;channels=3", "audio/pcm;rate=16000", "audio/PCMU", "audio/G722")


@dataclass(frozen=True)
class Outcome:
    seed: int
    status: int
    seconds: float


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first file")
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for one answer")
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    args = parser.parse_args(argv)
    clean = [encoded(*spec, seconds=0.3) for spec in FORMATS.values()]
    settings = {"ASR_BUNDLE": str(args.bundle), "ASR_MAX_DURATION_S": "30"}
    began = time.perf_counter()
    with served(settings) as server, ThreadPoolExecutor(args.callers) as callers:
        outcomes: list[Outcome] = []
        memory: list[float] = []
        step = max(1, args.files // 20)
        for start in range(0, args.files, step):
            seeds = range(args.first + start, args.first + min(start + step, args.files))
            outcomes += callers.map(lambda seed: _post(server, clean, seed, args.patience), seeds)
            memory.append(server.memory_mib())
            if httpx2.get(f"{server.address}/healthz").status_code != 200:
                sys.exit("the service is not healthy any more")
            print(
                f"{len(outcomes)} files, {memory[-1]:.0f} MiB, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    bad = [one for one in outcomes if one.status >= 500 or one.status == 0]
    for one in bad:
        args.keep.mkdir(parents=True, exist_ok=True)
        (args.keep / str(one.seed)).write_bytes(mutated(clean, one.seed))
    slowest = max(outcomes, key=lambda one: one.seconds)
    slope, error = slope_of(memory[len(memory) // 2 :], step)
    result = {
        "files": len(outcomes),
        "first_seed": args.first,
        "seconds": round(time.perf_counter() - began),
        "statuses": dict(sorted(Counter(str(one.status) for one in outcomes).items())),
        "bad_seeds": [one.seed for one in bad],
        "slowest_s": round(slowest.seconds, 1),
        "slowest_seed": slowest.seed,
        "memory_mib": [round(sample, 1) for sample in memory],
        "slope_mib_per_1000_files": round(slope, 2),
        "slope_standard_error": round(error, 2),
    }
    args.results.parent.mkdir(exist_ok=True)
    args.results.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    if bad or slope > MAX_SLOPE:
        sys.exit("failed")


def _post(server: Server, clean: list[bytes], seed: int, patience_s: float) -> Outcome:
    """Status 0: no answer in time."""
    content = mutated(clean, seed)
    kind = RAW_TYPES[seed // 10 % len(RAW_TYPES)] if seed % 10 == 0 else "application/octet-stream"
    started = time.perf_counter()
    try:
        status = httpx2.post(
            f"{server.address}/transcribe?decoder=greedy",
            files={"file": ("a", content, kind)},
            timeout=patience_s,
        ).status_code
    except httpx2.HTTPError:
        status = 0
    return Outcome(seed, status, time.perf_counter() - started)


def mutated(clean: list[bytes], seed: int) -> bytes:
    """A recording with one to four faults; the same for the same seed."""
    rng = np.random.default_rng(seed)
    content = bytearray(clean[rng.integers(len(clean))])
    for _ in range(rng.integers(1, 5)):
        # Most of a container's structure is at its beginning.
        reach = len(content) if rng.random() < 0.5 else min(len(content), 200)
        at, size = int(rng.integers(max(reach, 1))), int(rng.integers(1, 64))
        match rng.integers(7):
            case 0:
                content[at : at + size] = rng.bytes(size)
            case 1:
                content[at : at + 1] = bytes([int(rng.integers(256))])
            case 2:
                del content[at : at + size * int(rng.integers(1, 50))]
            case 3:
                content[at:at] = content[at : at + size] * int(rng.integers(1, 20))
            case 4:
                content[at : at + 4] = EXTREMES[rng.integers(len(EXTREMES))]
            case 5:
                del content[at:]
            case 6:
                other = clean[rng.integers(len(clean))]
                content[at:] = other[int(rng.integers(len(other))) :]
    return bytes(content)


if __name__ == "__main__":
    main()
