"""How far confidence can be believed: calibration error, discrimination, and the diagram of both.

Shapes: W words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10
_PANEL, _GAP, _TOP = 220, 46, 40  # pixels


def calibration_error(probability_W: NDArray[np.float64], right_W: NDArray[np.bool_]) -> float:
    """Expected calibration error, 0-1, over ten bins of equal width (Naeini et al. 2015; Guo et al. 2017).

    The mean over words of |share right in the word's bin - mean probability in it|. 0 without words.
    """
    bins = reliability_bins(probability_W, right_W)
    n_words = sum(b["words"] for b in bins)
    return sum(b["words"] * abs(b["right"] - b["probability"]) for b in bins) / max(n_words, 1)


def reliability_bins(probability_W: NDArray[np.float64], right_W: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Words, their mean probability and the share of them that is right, per bin that has any."""
    index_W = np.minimum((probability_W * BINS).astype(int), BINS - 1)
    return [
        {
            "words": int(inside.sum()),
            "probability": round(float(probability_W[inside].mean()), 5),
            "right": round(float(right_W[inside].mean()), 5),
        }
        for inside in (index_W == k for k in range(BINS))
        if inside.any()
    ]


def normalised_cross_entropy(probability_W: NDArray[np.float64], right_W: NDArray[np.bool_]) -> float:
    """NIST's NCE: 1 for certainty that is always right, 0 for knowing no more than the share of right words.

    0 where all words are right, or none.
    """
    share = right_W.mean() if len(right_W) else 0.0
    if not 0.0 < share < 1.0:
        return 0.0
    most = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    kept_W = np.clip(probability_W, 1e-6, 1 - 1e-6)
    return float(1.0 + np.log(np.where(right_W, kept_W, 1 - kept_W)).mean() / most)


def ranking(probability_W: NDArray[np.float64], right_W: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a right word has a higher value than a wrong one; ties half.

    0.5 where all words are right, or none.
    """
    n_right, n_wrong = int(right_W.sum()), int((~right_W).sum())
    if not n_right or not n_wrong:
        return 0.5
    _, inverse, counts = np.unique(probability_W, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each value
    ranks_W = middle[inverse]
    return float((ranks_W[right_W].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def summary(probability_W: NDArray[np.float64], right_W: NDArray[np.bool_]) -> dict[str, Any]:
    """The figures of one decoder's words, rounded, with the bins of their diagram."""
    return {
        "words": len(right_W),
        "right": round(float(right_W.mean()), 4) if len(right_W) else 0.0,
        "ece": round(calibration_error(probability_W, right_W), 4),
        "nce": round(normalised_cross_entropy(probability_W, right_W), 4),
        "auc": round(ranking(probability_W, right_W), 4),
        "bins": reliability_bins(probability_W, right_W),
    }


def reliability_svg(title: str, panels: Mapping[str, tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """A diagram per decoder: share of right words against confidence, before (grey) and after (blue).

    panels: `summary` before and after, by decoder. A dot's area is its bin's share of the words.
    """
    width = _GAP + len(panels) * (_PANEL + _GAP)
    height = _TOP + _PANEL + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{_escaped(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (name, (before, after)) in enumerate(panels.items()):
        left = _GAP + number * (_PANEL + _GAP)
        parts += _axes(left, f"{name}: ECE {before['ece']:.3f} → {after['ece']:.3f}")
        parts += _curve(left, before, "#999")
        parts += _curve(left, after, "#1463c3")
    middle, bottom = width / 2, height - 8
    parts.append(f'<text x="{middle}" y="{bottom}" text-anchor="middle">{_escaped(title)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _axes(left: float, title: str) -> list[str]:
    base = _TOP + _PANEL
    lines = [
        f'<text x="{left + _PANEL / 2}" y="{_TOP - 14}" text-anchor="middle">{_escaped(title)}</text>',
        f'<rect x="{left}" y="{_TOP}" width="{_PANEL}" height="{_PANEL}" fill="none" stroke="#ccc"/>',
        f'<path d="M{left} {base}L{left + _PANEL} {_TOP}" stroke="#ccc" stroke-dasharray="4 3"/>',
    ]
    for tick in (0.0, 0.5, 1.0):
        x, y = left + tick * _PANEL, base - tick * _PANEL
        lines.append(f'<text x="{x}" y="{base + 15}" text-anchor="middle" fill="#555">{tick:g}</text>')
        lines.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" fill="#555">{tick:g}</text>')
    lines.append(
        f'<text x="{left + _PANEL / 2}" y="{base + 30}" text-anchor="middle" fill="#555">confidence</text>'
    )
    return lines


def _curve(left: float, figures: Mapping[str, Any], colour: str) -> list[str]:
    points = [
        (left + b["probability"] * _PANEL, _TOP + (1 - b["right"]) * _PANEL, b["words"] / figures["words"])
        for b in figures["bins"]
    ]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points)
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 14 * share**0.5:.1f}" fill="{colour}" opacity=".5"/>'
        for x, y, share in points
    ]
    return [f'<path d="M{path}" fill="none" stroke="{colour}"/>', *dots] if points else []


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def card_section(report: Mapping[str, Any]) -> str:
    """Markdown for the model card, from a bundle's calibration.json."""
    lines = [
        "## Confidence and word times",
        "",
        f"`{report['command']}` ({report['created']}).",
        "Confidence is fitted on the first manifests and checked on the second, which the fit never saw.",
        "ECE: expected calibration error over ten bins, before (entropy alone) and after; NCE and AUC of the",
        "calibrated values. `LM only`: share of words that only the language model supports, and how many of",
        "these are right.",
        "",
        "| data | decoder | words | right | ECE before | ECE | NCE | AUC | LM only | of these right |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ("fitted", "checked"):
        for decoder, row in report.get(name, {}).get("all", {}).items():
            after, flagged = row["after"], row["lm_only"]
            cells = [
                name,
                f"`{decoder}`",
                after["words"],
                f"{100 * after['right']:.1f} %",
                f"{row['before']['ece']:.3f}",
                f"{after['ece']:.3f}",
                f"{after['nce']:.3f}",
                f"{after['auc']:.3f}",
                f"{100 * flagged['share']:.1f} %",
                "" if flagged["right"] is None else f"{100 * flagged['right']:.0f} %",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "![Reliability of the words' confidence, before (grey) and after (blue)](reliability.svg)"]
    if report.get("times"):
        lines += ["", *_times_table(report["times"])]
    return "\n".join(lines)


def _times_table(times: Mapping[str, Any]) -> Sequence[str]:
    shifts = times["shifts_s"]
    lines = [
        "Word times against the edges of speech in joined utterances (where energy rises and falls; clear",
        f"recordings only), median distance in ms. Constants fitted on the first manifests: "
        f"{1000 * shifts['start']:+.0f} ms on",
        f"beginnings, {1000 * shifts['end']:+.0f} ms on ends.",
        "",
        "| data | words | boundaries | without constants | with | 90 % within |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("fitted", "checked"):
        for words, row in times.get(name, {}).items():
            lines.append(
                f"| {name} | {words} | {row['boundaries']} | {row['before_ms']:.0f} | {row['after_ms']:.0f} "
                f"| {row['after_90_ms']:.0f} |"
            )
    return lines
