"""Real-time factor and memory of a bundle, one utterance at a time: python -m bench.real_time [--bundle
models/default]

Seconds of computing per second of audio for each decoder and stage, on one thread, over real recordings (a
prepared manifest, or `speech/test` below ASR_DATA). CPU seconds are the process' own; wall seconds depend
on who else uses the machine. Memory is the process' peak, with all models loaded. Results go to
bench/results/real_time.json.
"""

import argparse
import json
import os
import platform
import resource
import time
from collections import defaultdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from asr.decoding.options import DECODERS, DecodingOptions
from asr.transcriber import Transcriber
from training.manifest import Utterance, read_bytes, read_manifest
from training.prepare import find_utterances

RESULTS = Path(__file__).parent / "results" / "real_time.json"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--manifest", type=Path, help="default: speech/test below ASR_DATA")
    parser.add_argument("--utterances", type=int, default=60, help="every so many-th of the manifest")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    chosen = _utterances(args.manifest, args.utterances)
    began = time.perf_counter()
    transcriber = Transcriber.load(args.bundle, device=args.device)
    load_s = time.perf_counter() - began
    recordings = [read_bytes(u) for u in chosen]
    transcriber.transcribe(recordings[0], DecodingOptions("beam_lm_rescore"))  # first call: libraries warm up
    rows = {decoder: _measure(transcriber, recordings, decoder) for decoder in DECODERS}
    result = {
        "bundle": transcriber.sha256,
        "device": transcriber.device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": args.threads,
        "utterances": len(recordings),
        "load_s": round(load_s, 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "decoders": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _show(result)


def _utterances(manifest: Path | None, wanted: int) -> list[Utterance]:
    if manifest:
        found = read_manifest(manifest)
    else:
        found = find_utterances(Path(os.environ.get("ASR_DATA", "../shared/data")) / "speech" / "test")
    return found[:: max(1, len(found) // wanted)][:wanted]


def _measure(transcriber: Transcriber, recordings: list[bytes], decoder: str) -> dict[str, float]:
    """Real-time factors: CPU, wall, and wall per stage."""
    audio_s, stages_ms = 0.0, defaultdict[str, float](float)
    wall, cpu = time.perf_counter(), time.process_time()
    for recording in recordings:
        transcript = transcriber.transcribe(recording, DecodingOptions(decoder))  # type: ignore[arg-type]
        audio_s += transcript.duration_s
        for stage, milliseconds in transcript.timings_ms.items():
            stages_ms[stage] += milliseconds
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stages = {stage: round(total / 1000 / audio_s, 5) for stage, total in stages_ms.items()}
    return {"cpu": round(cpu / audio_s, 5), "wall": round(wall / audio_s, 5), **stages}


def _show(result: dict[str, object]) -> None:
    rows: dict[str, dict[str, float]] = result["decoders"]  # type: ignore[assignment]
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table("decoder", *columns, title="real-time factor: seconds per second of audio")
    for decoder, row in rows.items():
        table.add_row(decoder, *(f"{row[c]:.4f}" if c in row else "" for c in columns))
    console = Console()
    console.print(table)
    console.print(f"{result['utterances']} utterances, {result['threads']} thread(s), {result['device']}")
    console.print(
        f"loaded in {result['load_s']} s, peak memory {result['peak_memory_mib']} MiB -> {RESULTS.name}"
    )


if __name__ == "__main__":
    main()
