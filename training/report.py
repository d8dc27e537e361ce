"""One HTML page about a run: asr-train report runs/default --evaluation dev.json test.json --out report.html

Training curves, WER per set and decoder with 95 % bootstrap intervals, the most confused words, breakdowns by
length, speaker, corpus, accent and age where they are known, the worst utterances to listen to, and the
tuning's surfaces (`--tuning`). The page is one file that opens offline: charts are inline SVG, recordings are
embedded up to `--audio-mb`.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.report_audio import AudioBudget
from training.report_curves import read_log
from training.report_page import Evaluation, page
from training.whole_file import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder of `asr-train train`; it may still be training")
    parser.add_argument(
        "--evaluation", type=Path, nargs="+", default=[], help="results of `asr-train evaluate`"
    )
    parser.add_argument("--tuning", type=Path, help="tuning.json of `asr-train tune`")
    parser.add_argument("--decoder", help="whose errors are shown (default: the last of the results)")
    parser.add_argument("--worst", type=int, default=8, help="utterances of each set")
    parser.add_argument("--audio-mb", type=float, default=8.0, help="of embedded recordings, 0 for none")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file")


def main(args: argparse.Namespace) -> None:
    """Raises OSError for absent files, ValueError for files that are not what they should be."""
    if not args.run.is_dir():
        raise FileNotFoundError(f"{args.run} is no run folder")
    summary_path = args.run / "train.json"
    content = page(
        name=args.run.absolute().name,
        log=read_log(args.run / "log.jsonl"),
        summary=read_object(summary_path) if summary_path.is_file() else {},
        evaluations=[_evaluation(path, args.decoder) for path in args.evaluation],
        tuning=read_object(args.tuning) if args.tuning else {},
        n_worst=args.worst,
        audio=AudioBudget(int(args.audio_mb * 1e6)),
    )
    write_text(args.out, content)
    print(f"{len(content.encode()) / 1e6:.1f} MB -> {args.out}")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises OSError, or ValueError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return content


def _evaluation(path: Path, decoder: str | None) -> Evaluation:
    report: Mapping[str, Any] = read_object(path)
    if not report.get("sets") or not report.get("utterances"):
        raise ValueError(f"{path} holds no results of `asr-train evaluate`")
    decoders = [name for result in report["sets"].values() for name in result["decoders"] if name != "oracle"]
    if decoder and decoder not in decoders:
        raise ValueError(f"{path} has no decoder {decoder!r}, but {', '.join(dict.fromkeys(decoders))}")
    return Evaluation(path.stem, report, decoder or decoders[-1])
