"""Measure a bundle: asr-train evaluate models/default --manifest data/test/manifest.jsonl --out test.json

WER and CER per set and decoder with 95 % bootstrap intervals, the oracle WER of the list that GPT-2 re-ranks,
and the real-time factor, all through `Transcriber` from the audio's bytes as the service does it; WER by
corpus, accent, and child or adult where the manifest knows them. Sets are never pooled. The JSON holds every
utterance with its reference, each decoder's text and the parts of its score: `asr-train report` reads it.
"""

import argparse
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from asr.decoding.options import DECODERS, MAX_NBEST, DecodingOptions, decoding_for_people
from asr.errors import AsrError
from asr.scoring import ErrorRate, char_error_rate, word_error_rate, word_errors
from asr.transcriber import Transcriber
from training.manifest import Utterance, read_bytes, read_manifest
from training.whole_file import write_json
from training.workers import workers

ORACLE = "oracle"


@dataclass(frozen=True)
class Outcome:
    """What the decoders made of one utterance."""

    name: str
    set: str
    speaker: str
    corpus: str
    accent: str
    age: str
    audio: dict[str, Any]  # where the recording is: `path`, `offset` and `size` in bytes, as in the manifest
    duration_s: float  # of the decoded audio
    reference: str
    texts: dict[str, str]  # by decoder, and ORACLE: the best of the list that GPT-2 re-orders
    errors: dict[str, int]  # word errors of each text
    parts: dict[str, dict[str, float]]  # by decoder: the score's parts, natural logarithms, and their total
    seconds: dict[str, float]  # of work, by decoder, everything from the encoded bytes on included


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON: results, and every utterance's texts")
    parser.add_argument("--workers", type=int, default=1, help="processes, one torch thread each")
    parser.add_argument("--limit", type=int, help="only so many utterances of each manifest")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def main(args: argparse.Namespace) -> None:
    utterances = [u for path in args.manifest for u in read_manifest(path)[: args.limit]]
    with workers(args.bundle, args.workers, args.device) as pool:
        bundle = pool.transcriber.bundle
        results = pool.map(judge, utterances)
        outcomes = list(track(results, description="evaluate", total=len(utterances)))
    sets = {name: measure([o for o in outcomes if o.set == name]) for name in set_names(outcomes)}
    report = {
        "bundle": {"name": bundle.settings.name, "measured_sha256": bundle.measured_sha256},
        "command": shlex.join(["asr-train", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_name(), "device": pool.transcriber.device, "processes": args.workers},
        "decoding": decoding_for_people(bundle.settings.decoding),
        "sets": sets,
        "utterances": [asdict(outcome) for outcome in outcomes],
    }
    write_json(args.out, report)
    Console().print(results_table(sets))


def judge(transcriber: Transcriber, utterance: Utterance) -> Outcome:
    """Decode one utterance in every way, from one acoustic pass. Raises ValueError naming the unreadable."""
    try:
        posteriors = transcriber.listen(read_bytes(utterance))
    except (AsrError, OSError) as error:
        raise ValueError(f"{utterance.audio} ({utterance.name}): {error}") from error
    texts: dict[str, str] = {}
    seconds: dict[str, float] = {}
    parts: dict[str, dict[str, float]] = {}
    listed = [""]
    for decoder in DECODERS:
        transcript = transcriber.decode(posteriors, DecodingOptions(decoder, nbest=MAX_NBEST))
        texts[decoder] = transcript.text
        seconds[decoder] = round(sum(transcript.timings_ms.values()) / 1000, 4)
        scores = transcript.hypotheses[0].scores
        parts[decoder] = {key: round(value, 4) for key, value in scores._asdict().items()}
        parts[decoder]["total"] = round(scores.total, 4)
        if decoder == "beam_lm_rescore":
            listed = [hypothesis.text for hypothesis in transcript.hypotheses]
    texts[ORACLE] = min(listed, key=lambda text: word_errors(utterance.text, text))
    return Outcome(
        name=utterance.name,
        set=utterance.set,
        speaker=utterance.speaker,
        corpus=utterance.corpus,
        accent=utterance.accent,
        age=utterance.age,
        audio={"path": str(utterance.audio), "offset": utterance.offset, "size": utterance.size},
        duration_s=posteriors.duration_s,
        reference=utterance.text,
        texts=texts,
        errors={decoder: word_errors(utterance.text, text) for decoder, text in texts.items()},
        parts=parts,
        seconds=seconds,
    )


def set_names(outcomes: Sequence[Outcome]) -> list[str]:
    """In the order of their first utterance."""
    return list(dict.fromkeys(outcome.set for outcome in outcomes))


def measure(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Results of one set's utterances."""
    references = [outcome.reference for outcome in outcomes]
    duration_s = sum(outcome.duration_s for outcome in outcomes)
    decoders: dict[str, dict[str, Any]] = {}
    for decoder in (*DECODERS, ORACLE):
        texts = [outcome.texts[decoder] for outcome in outcomes]
        decoders[decoder] = {
            "wer": _rate(word_error_rate(references, texts)),
            "cer": _rate(char_error_rate(references, texts)),
        }
        if decoder != ORACLE:
            work_s = sum(outcome.seconds[decoder] for outcome in outcomes)
            decoders[decoder]["real_time_factor"] = round(work_s / duration_s, 5)
    return {
        "utterances": len(outcomes),
        "words": sum(len(reference.split()) for reference in references),
        "hours": round(duration_s / 3600, 4),
        "decoders": decoders,
        "groups": {
            kind: groups
            for kind, value_of in GROUPS.items()
            if (groups := _group_rates(outcomes, [value_of(outcome) for outcome in outcomes]))
        },
    }


def age_group(age: str) -> str:
    """ "child" below 16 years, "adult" from there on; other words ("twenties") as they are; "" unknown."""
    if not age.strip().isdigit():
        return age.strip()
    return "child" if int(age) < 16 else "adult"


GROUPS: dict[str, Callable[[Outcome], str]] = {
    "corpus": lambda outcome: outcome.corpus,
    "accent": lambda outcome: outcome.accent,
    "age": lambda outcome: age_group(outcome.age),
}


def _group_rates(outcomes: Sequence[Outcome], values: Sequence[str]) -> dict[str, Any]:
    """WER per value and decoder, largest group first; nothing where all values are the same or unknown."""
    if len(set(values)) < 2:
        return {}
    rates: dict[str, Any] = {}
    for value, _ in Counter(values).most_common():
        chosen = [o for o, v in zip(outcomes, values, strict=True) if v == value]
        references = [outcome.reference for outcome in chosen]
        rates[value or "not known"] = {
            "utterances": len(chosen),
            "speakers": len({outcome.speaker for outcome in chosen}),
            "words": sum(len(reference.split()) for reference in references),
            **{
                name: {
                    decoder: _rate(rate(references, [o.texts[decoder] for o in chosen]))
                    for decoder in (*DECODERS, ORACLE)
                }
                for name, rate in (("wer", word_error_rate), ("cer", char_error_rate))
            },
        }
    return rates


def _rate(rate: ErrorRate) -> dict[str, Any]:
    return {
        "rate": round(rate.rate, 5),
        "interval": [round(rate.low, 5), round(rate.high, 5)],
        "substitutions": rate.substitutions,
        "deletions": rate.deletions,
        "insertions": rate.insertions,
        "units": rate.units,
    }


def results_table(sets: dict[str, Any]) -> Table:
    """For the terminal."""
    table = Table("set", "decoder", "WER %", "CER %", "x real time")
    for name, result in sets.items():
        for decoder, values in result["decoders"].items():
            factor = values.get("real_time_factor")
            table.add_row(
                name,
                decoder,
                _shown(values["wer"]),
                _shown(values["cer"]),
                "" if factor is None else f"{factor:.3f}",
            )
        table.add_section()
    return table


def _shown(rate: dict[str, Any]) -> str:
    return f"{100 * rate['rate']:.1f} ({interval(rate)})"


def interval(rate: dict[str, Any]) -> str:
    """The 95 % interval in per cent."""
    low, high = rate["interval"]
    return f"{100 * low:.1f}-{100 * high:.1f}"


def cpu_name() -> str:
    """The processor as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
