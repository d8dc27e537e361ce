"""A run's `log.jsonl` as curves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.svg_charts import Series, line_chart

MAX_POINTS = 400  # of one curve: more cannot be seen


@dataclass(frozen=True)
class RunLog:
    """What a run has noted, in order of steps; a step that a resumed run repeated counts once."""

    steps: Sequence[dict[str, Any]]  # `step`, `loss`, `lr`, `grad_norm`
    epochs: Sequence[dict[str, Any]]  # `step`, `epoch`, `minutes`, `train_loss`, `dev`


def read_log(path: Path) -> RunLog:
    """Lines of other kinds are passed over, and so is a last line that a killed run cut off.

    Raises OSError when there is no log, ValueError naming a line that is not JSON.
    """
    steps: dict[int, dict[str, Any]] = {}
    epochs: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: {error}") from error
        if not isinstance(row, dict) or "step" not in row:
            continue
        if isinstance(row.get("dev"), dict):
            epochs[row["step"]] = row
        elif "loss" in row:
            steps[row["step"]] = row
    return RunLog([steps[n] for n in sorted(steps)], [epochs[n] for n in sorted(epochs)])


def charts(log: RunLog) -> list[str]:
    """SVG: loss, dev WER and CER per set, learning rate, gradient norm."""
    found = []
    if log.steps:
        found.append(line_chart("Training loss per label", _loss_series(log), x_label="step"))
    for key, label in (("wer", "Word error rate on dev, greedy"), ("cer", "Character error rate on dev")):
        if series := _dev_series(log, key):
            found.append(line_chart(label, series, x_label="step", percent=True))
    for key, label, log_y in (("lr", "Learning rate", False), ("grad_norm", "Gradient norm", True)):
        rows = [r for r in log.steps if _finite(r.get(key)) and (r[key] > 0 or not log_y)]
        if rows:
            x, y = thinned([r["step"] for r in rows], [r[key] for r in rows])
            found.append(line_chart(label, [Series(label, x, y)], x_label="step", log_y=log_y))
    return found


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most MAX_POINTS of a curve, the last one included."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).round().astype(int))
    return [x[i] for i in chosen], [y[i] for i in chosen]


def smoothed(values: Sequence[float]) -> list[float]:
    """A running mean over a thirtieth of the curve, shorter at its ends."""
    reach, n = len(values) // 60, len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = [(max(0, i - reach), min(n, i + reach + 1)) for i in range(n)]
    return [float(sums[stop] - sums[start]) / (stop - start) for start, stop in ends]


def _loss_series(log: RunLog) -> list[Series]:
    rows = [row for row in log.steps if _finite(row["loss"])]
    x, y = [r["step"] for r in rows], [r["loss"] for r in rows]
    if not rows:
        return []
    return [Series("each step", *thinned(x, y), faint=True), Series("running mean", *thinned(x, smoothed(y)))]


def _dev_series(log: RunLog, key: str) -> list[Series]:
    names = list(dict.fromkeys(name for row in log.epochs for name in row["dev"]))
    series = []
    for name in names:
        rows = [r for r in log.epochs if _finite((r["dev"].get(name) or {}).get(key))]
        if rows:
            series.append(Series(name, [r["step"] for r in rows], [r["dev"][name][key] for r in rows]))
    return series


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))
