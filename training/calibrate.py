"""Make confidence a probability and word times exact: asr-train calibrate models/default
--manifest data/dev/manifest.jsonl --check data/test/manifest.jsonl

For each decoder, a logistic map from the evidence for a word (`asr.decoding.evidence`) to the probability
that it is right, fitted on the words that the decoder makes of dev; and the two constants by which CTC's word
times are off, fitted on dev utterances joined at known times (`training.joined`). Both go into bundle.json,
the figures into calibration.json, reliability.svg and the model card. `--check` measures them on data that
the fit never sees: give test there, never under --manifest. Texts do not change: an evaluation stays valid.
Run it again after another acoustic model, n-gram, GPT-2 or decoding weights.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from asr.bundle import ACOUSTIC, CALIBRATION, MODEL_CARD, RELIABILITY, Bundle
from asr.decoding.alignment import place_words
from asr.decoding.calibration import Calibration, LogisticMap
from asr.decoding.evidence import FEATURES, acoustic_gaps, features, greedy_agreement, lm_only
from asr.decoding.options import DECODERS, MAX_NBEST, DecoderName, DecodingOptions
from asr.decoding.words import entropy_confidences
from asr.errors import AsrError
from asr.transcriber import Transcriber
from training.joined import Joined, join
from training.manifest import Utterance, read_bytes, read_manifest
from training.model_card import model_card, read_measurements
from training.reliability import reliability_svg, summary
from training.timing import Edge, edges, fitted_shifts, timing_figures, words_right
from training.workers import Workers, workers

RIDGE = 1.0  # on standardised weights; thousands of words against 15 weights need little
STEPS = 50  # of Newton's method, which is done after some ten
JOIN = 4  # utterances in a recording of known boundaries


@dataclass(frozen=True)
class Judged:
    """The words that one decoder made of one utterance. W words, F features."""

    set: str
    evidence: NDArray[np.float64]  # (W, F)
    entropy: NDArray[np.float64]  # (W,), uncalibrated confidence
    right: NDArray[np.bool_]  # (W,)
    lm_only: NDArray[np.bool_]  # (W,)


Words = dict[DecoderName, list[Judged]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="dev; never test")
    parser.add_argument("--check", type=Path, nargs="+", default=[], help="test: measured, never fitted on")
    parser.add_argument(
        "--joined", type=int, default=12, help="joined recordings of each set, for word times"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one torch thread each")
    parser.add_argument("--limit", type=int, help="only so many utterances of each manifest")


def main(args: argparse.Namespace) -> None:
    dev, check = (
        [u for path in paths for u in read_manifest(path)[: args.limit] if u.text]
        for paths in (args.manifest, args.check)
    )
    if shared := {u.text for u in dev} & {u.text for u in check}:
        raise ValueError(f"--manifest and --check share {len(shared)} texts: a check needs data of its own")
    with workers(args.bundle, args.workers, "cpu") as pool:
        bundle = pool.transcriber.bundle
        judged = _judge_all(pool, dev, "dev")
        maps = {decoder: fit(words) for decoder, words in judged.items() if _fittable(words)}
        dev_edges = _edges(pool, dev, args.joined, (), None)
        shifts = fitted_shifts(dev_edges)
        calibration = Calibration(bundle.files[ACOUSTIC].sha256, maps, *shifts)
        times = {
            "shifts_s": {"start": shifts[0], "end": shifts[1]},
            "fitted": timing_figures([_shifted(edge, shifts) for edge in dev_edges]),
        }
        report: dict[str, Any] = {
            "command": shlex.join(["asr-train", *sys.argv[1:]]),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "measured_sha256": bundle.measured_sha256,
            "fitted": figures(judged, maps),
            "times": times,
        }
        if check:
            report["checked"] = figures(_judge_all(pool, check, "check"), maps)
            times["checked"] = timing_figures(_edges(pool, check, args.joined, DECODERS, calibration))
    save(bundle, calibration, report)
    _show(report)


def judge(transcriber: Transcriber, utterance: Utterance) -> dict[DecoderName, Judged]:
    """What every decoder makes of an utterance, and what is right of it. Raises ValueError on bad audio."""
    try:
        posteriors = transcriber.listen(read_bytes(utterance))
    except (AsrError, OSError) as error:
        raise ValueError(f"{utterance.audio} ({utterance.name}): {error}") from error
    log_probs_TV = posteriors.log_probs
    found: dict[DecoderName, Judged] = {}
    for decoder in DECODERS:
        transcript = transcriber.decode(posteriors, DecodingOptions(decoder, nbest=MAX_NBEST))
        placed = place_words(log_probs_TV, transcript.text, transcriber.tokenizer)
        gaps = acoustic_gaps(log_probs_TV, placed, transcriber.tokenizer.blank_id)
        agrees = greedy_agreement(log_probs_TV, placed, transcriber.tokenizer)
        found[decoder] = Judged(
            set=utterance.set,
            evidence=features(
                log_probs_TV,
                placed,
                transcriber.tokenizer,
                hypotheses=transcript.hypotheses,
                lm=transcriber.lm,
            ),
            entropy=np.array(entropy_confidences(log_probs_TV, placed)),
            right=np.array(words_right(utterance.text, transcript.text), dtype=bool),
            lm_only=np.array([lm_only(g, a) for g, a in zip(gaps, agrees, strict=True)], dtype=bool),
        )
    return found


def fit(words: Sequence[Judged]) -> LogisticMap:
    """Regularised maximum likelihood by Newton's method on standardised features."""
    evidence_WF = np.concatenate([j.evidence for j in words])
    right_W = np.concatenate([j.right for j in words]).astype(np.float64)
    mean_F, spread_F = evidence_WF.mean(axis=0), evidence_WF.std(axis=0)
    spread_F = np.where(spread_F > 1e-9, spread_F, np.inf)  # a feature that never varies has no weight
    design_WD = np.column_stack([np.ones(len(right_W)), (evidence_WF - mean_F) / spread_F])
    ridge_D = np.full(design_WD.shape[1], RIDGE)
    ridge_D[0] = 1e-6  # the bias is free
    weights_D = np.zeros(design_WD.shape[1])
    for _ in range(STEPS):
        p_W = 0.5 * (1 + np.tanh(0.5 * (design_WD @ weights_D)))
        gradient_D = design_WD.T @ (p_W - right_W) + ridge_D * weights_D
        curvature_DD = (design_WD * (p_W * (1 - p_W))[:, None]).T @ design_WD + np.diag(ridge_D)
        step_D = np.linalg.solve(curvature_DD, gradient_D)
        weights_D -= step_D
        if np.abs(step_D).max() < 1e-8:
            break
    slopes_F = weights_D[1:] / spread_F
    bias = float(weights_D[0] - slopes_F @ mean_F)
    return LogisticMap(
        round(bias, 6), {name: round(float(slope), 6) for name, slope in zip(FEATURES, slopes_F, strict=True)}
    )


def figures(judged: Words, maps: Mapping[str, LogisticMap]) -> dict[str, dict[str, Any]]:
    """`all` and each set -> decoder -> its words' figures before and after calibration."""
    sets = list(dict.fromkeys(j.set for words in judged.values() for j in words))
    found: dict[str, dict[str, Any]] = {}
    for name in ("all", *sets):
        found[name] = {}
        for decoder, learned in maps.items():
            chosen = [j for j in judged[decoder] if name in ("all", j.set) and len(j.right)]  # type: ignore[index]
            if not chosen:
                continue
            right_W = np.concatenate([j.right for j in chosen])
            flagged_W = np.concatenate([j.lm_only for j in chosen])
            found[name][decoder] = {
                "before": summary(np.concatenate([j.entropy for j in chosen]), right_W),
                "after": summary(np.concatenate([learned.probability(j.evidence) for j in chosen]), right_W),
                "lm_only": {
                    "share": round(float(flagged_W.mean()), 4),
                    "right": round(float(right_W[flagged_W].mean()), 4) if flagged_W.any() else None,
                },
            }
    return found


def save(bundle: Bundle, calibration: Calibration, report: Mapping[str, Any]) -> Bundle:
    """The bundle with the calibration, its figures, their picture, and a model card that has both."""
    shown = "checked" if "checked" in report else "fitted"
    panels = {d: (row["before"], row["after"]) for d, row in report[shown]["all"].items()}
    svg = reliability_svg(f"share of words that are right, against confidence; data {shown}", panels)
    changed = {
        CALIBRATION: (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode(),
        RELIABILITY: svg.encode(),
    }
    saved = bundle.with_changes(replace(bundle.settings, calibration=calibration), changed)
    card = model_card(saved, read_measurements(saved))
    return saved.with_changes(saved.settings, {MODEL_CARD: card.encode()})


def _judge_all(pool: Workers, utterances: Sequence[Utterance], description: str) -> Words:
    rows = list(track(pool.map(judge, utterances), description=description, total=len(utterances)))
    return {decoder: [row[decoder] for row in rows] for decoder in DECODERS}


def _fittable(words: Sequence[Judged]) -> bool:
    """A map needs words of both kinds."""
    right = [bool(r) for j in words for r in j.right]
    return any(right) and not all(right)


def _edges(
    pool: Workers,
    utterances: Sequence[Utterance],
    wanted: int,
    decoders: Sequence[DecoderName],
    calibration: Calibration | None,
) -> list[Edge]:
    """Edges in `wanted` joined recordings of each set."""
    items: list[tuple[Joined, Sequence[DecoderName], Calibration | None]] = []
    for name in dict.fromkeys(u.set for u in utterances):
        joined = join([u for u in utterances if u.set == name], JOIN)
        items += [
            (recording, decoders, calibration) for _, recording in zip(range(wanted), joined, strict=False)
        ]
    found = track(pool.map(edges, items), description="joined", total=len(items))
    return [edge for row in found for edge in row]


def _shifted(edge: Edge, shifts_s: tuple[float, float]) -> Edge:
    return replace(edge, after_s=edge.before_s + shifts_s[edge.kind == "end"])


def _show(report: Mapping[str, Any]) -> None:
    table = Table(
        "data", "set", "decoder", "words", "right", "ECE before", "ECE", "NCE", "AUC", "LM only", "right"
    )
    for data in ("fitted", "checked"):
        for name, rows in report.get(data, {}).items():
            for decoder, row in rows.items():
                after, flagged = row["after"], row["lm_only"]
                table.add_row(
                    data,
                    name,
                    decoder,
                    str(after["words"]),
                    f"{after['right']:.1%}",
                    f"{row['before']['ece']:.3f}",
                    f"{after['ece']:.3f}",
                    f"{after['nce']:.3f}",
                    f"{after['auc']:.3f}",
                    f"{flagged['share']:.1%}",
                    "" if flagged["right"] is None else f"{flagged['right']:.0%}",
                )
        table.add_section()
    console = Console()
    console.print(table)
    console.print_json(json.dumps(report["times"]))
