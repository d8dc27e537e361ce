"""The HTML of `asr-train report`: sections from a run's log, its results and its tuning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from training.error_analysis import (
    Group,
    Row,
    align,
    by_field,
    by_length,
    confusions,
    n_errors,
    worst,
)
from training.report_audio import AudioBudget
from training.report_curves import RunLog, charts
from training.report_style import STYLE
from training.svg_charts import Interval, interval_chart, surface_chart

N_CONFUSED = 15  # of each kind
N_WORST_GROUPS, N_BEST_GROUPS = 12, 4  # where there are more
MOST_SHOWN = 1.5  # word error rate at which the axes end: a text of nothing but insertions has no limit


@dataclass(frozen=True)
class Evaluation:
    """One JSON of `asr-train evaluate`."""

    name: str
    report: Mapping[str, Any]
    decoder: str  # whose errors are looked at

    def rows(self, set_name: str) -> list[Row]:
        return [row for row in self.report["utterances"] if row["set"] == set_name]


def page(
    *,
    name: str,
    log: RunLog,
    summary: Mapping[str, Any],
    evaluations: Sequence[Evaluation],
    tuning: Mapping[str, Any],
    n_worst: int,
    audio: AudioBudget,
) -> str:
    """The whole document. Nothing in it is fetched from elsewhere."""
    sections: list[tuple[str, str]] = [(f"Results: {e.name}", _results(e)) for e in evaluations]
    sections.append(("Training", _training(log)))
    if surfaces := tuning.get("beam_lm_rescore", {}).get("surfaces"):
        sections.append(("Decoding weights", _tuning(tuning, surfaces)))
    for e in evaluations:
        sections.append((f"Where the errors are: {e.name}", _per_set(e, _breakdowns)))
        sections.append((f"Confused words: {e.name}", _per_set(e, _confused)))
    for e in evaluations:
        sections.append(
            (
                f"Worst utterances: {e.name}",
                _per_set(e, lambda rows, decoder: _worst(rows, decoder, n_worst, audio)),
            )
        )
    contents = "".join(f'<a href="#s{i}">{escape(title)}</a>' for i, (title, _) in enumerate(sections))
    body = "".join(
        f'<section id="s{i}"><h2>{escape(title)}</h2>{html}</section>'
        for i, (title, html) in enumerate(sections)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: training report</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(name)}</h1>{_facts(log, summary)}<nav>{contents}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]], numbers_from: int = 1) -> str:
    """An HTML table; columns from `numbers_from` on are set right."""

    def cells(row: Sequence[object], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= numbers_from else ''}>{escape(str(cell))}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def difference(reference: str, hypothesis: str) -> str:
    """Both texts in one: what was said and not written struck out, what was written instead underlined."""
    parts = []
    for edit in align(reference, hypothesis):
        if edit.kind == "equal":
            parts.append(escape(edit.said))
            continue
        if edit.said:
            parts.append(f"<del>{escape(edit.said)}</del>")
        if edit.written:
            parts.append(f"<ins>{escape(edit.written)}</ins>")
    return " ".join(parts)


def _facts(log: RunLog, summary: Mapping[str, Any]) -> str:
    """The run in a line."""
    facts = [str(summary[key]) for key in ("data",) if key in summary]
    last = log.epochs[-1] if log.epochs else {}
    steps = summary.get("steps") or max(
        (row["step"] for row in [*log.steps[-1:], *log.epochs[-1:]]), default=0
    )
    facts.append(f"{steps:,} steps")
    if "epoch" in last:
        facts.append(f"{last['epoch']} epochs")
    if minutes := summary.get("minutes") or last.get("minutes"):
        facts.append(f"{minutes:.0f} minutes")
    if "commit" in summary:
        facts.append(f"commit {summary['commit']}")
    if not summary:
        facts.append("not finished yet")
    return f'<p class="faint">{escape(" · ".join(facts))}</p>'


def _results(evaluation: Evaluation) -> str:
    rows: list[Interval] = []
    cells: list[list[object]] = []
    for set_name, result in evaluation.report["sets"].items():
        rows.append(Interval(f"{set_name} · {result['words']:,} words", 0, 0, 0, heading=True))
        for number, (decoder, values) in enumerate(result["decoders"].items()):
            wer, cer = values["wer"], values["cer"]
            rows.append(Interval(decoder, wer["rate"], *wer["interval"], colour=number))
            factor = values.get("real_time_factor")
            counts = [wer[kind] for kind in ("substitutions", "deletions", "insertions")]
            speed = "" if factor is None else f"{factor:.3f}"
            numbers = [result["utterances"], result["words"], _percent(wer), _percent(cer), *counts, speed]
            cells.append([set_name, decoder, *numbers])
    head = ["set", "decoder", "utterances", "words", "WER % (95 %)", "CER % (95 %)"]
    head += ["subst.", "del.", "ins.", "x real time"]
    return (
        interval_chart("Word error rate in % with 95 % bootstrap interval", rows, at_most=MOST_SHOWN)
        + f"<details><summary>As a table</summary>{table(head, cells, 2)}</details>"
        + "<p class=faint>Oracle: the best text of the list that GPT-2 re-orders. Sets are never pooled. "
        + f"<code>{escape(str(evaluation.report.get('command', '')))}</code></p>"
    )


def _training(log: RunLog) -> str:
    found = charts(log)
    if not found:
        return "<p>Nothing is logged yet.</p>"
    return '<div class="grid">' + "".join(f"<div>{chart}</div>" for chart in found) + "</div>"


def _tuning(tuning: Mapping[str, Any], surfaces: Sequence[dict[str, Any]]) -> str:
    weights = tuning.get("decoding", {})
    rescored = tuning["beam_lm_rescore"]
    search = rescored.get("search", {})
    names = {"rescore_alpha": "alpha", "rescore_beta": "beta", "gamma": "gamma"}
    chosen = ", ".join(f"{name} {weights.get(key)}" for key, name in names.items())
    text = f"With GPT-2: {chosen}; weighted mean WER on dev {100 * rescored['objective']:.2f} %"
    if search:
        text += (
            f", the best of {search['settings']:,} settings in {search['cpu_seconds']:g} s of processor time"
        )
    pictures = "".join(f"<div>{surface_chart(surface)}</div>" for surface in surfaces)
    note = "Each picture moves two weights and holds the third; full colour is best, the ring is the choice."
    return f'<p>{escape(text)}.</p><div class="grid three">{pictures}</div><p class="faint">{note}</p>'


def _per_set(evaluation: Evaluation, render: Callable[[Sequence[Row], str], str]) -> str:
    """Each set's part, the first one open."""
    parts = []
    for number, set_name in enumerate(evaluation.report["sets"]):
        html = render(evaluation.rows(set_name), evaluation.decoder)
        opened = " open" if number == 0 else ""
        parts.append(f"<details{opened}><summary>{escape(set_name)}</summary>{html}</details>")
    return f"<p class=faint>Decoder: <code>{escape(evaluation.decoder)}</code></p>" + "".join(parts)


def _breakdowns(rows: Sequence[Row], decoder: str) -> str:
    parts = [_group_chart("By length", by_length(rows, decoder))]
    for field in ("speaker", "corpus", "accent", "age"):
        if groups := by_field(rows, decoder, field):
            parts.append(_group_chart(f"By {field}", groups))
    return '<div class="grid two">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"


def _group_chart(title: str, groups: Sequence[Group]) -> str:
    def row(group: Group) -> Interval:
        n, rate = group.utterances, group.rate
        return Interval(group.name[:30], rate.rate, rate.low, rate.high, note=f"n {n}")

    if len(groups) <= N_WORST_GROUPS + N_BEST_GROUPS:
        return interval_chart(title, [row(group) for group in groups], at_most=MOST_SHOWN)
    middle = groups[len(groups) // 2].rate.rate
    several = [group for group in groups if group.utterances > 1]  # one utterance alone is chance
    ranked = several if len(several) > N_WORST_GROUPS + N_BEST_GROUPS else groups
    rows = [Interval("worst", 0, 0, 0, heading=True), *map(row, ranked[:N_WORST_GROUPS])]
    rows += [Interval("best", 0, 0, 0, heading=True), *map(row, ranked[-N_BEST_GROUPS:])]
    return interval_chart(f"{title}: {len(groups)}, median {100 * middle:.1f} %", rows, at_most=MOST_SHOWN)


def _confused(rows: Sequence[Row], decoder: str) -> str:
    found = confusions(rows, decoder)
    swapped = [
        (said, written, count, found.said[said])
        for (said, written), count in found.substitutions.most_common(N_CONFUSED)
    ]
    left_out = [(w, count, found.said[w]) for w, count in found.deletions.most_common(N_CONFUSED)]
    made_up = found.insertions.most_common(N_CONFUSED)
    tables = [
        ("Substitutions", found.substitutions, table(["said", "written", "times", "of"], swapped, 2)),
        ("Deletions", found.deletions, table(["said", "times", "of"], left_out)),
        ("Insertions", found.insertions, table(["written", "times"], made_up)),
    ]
    columns = "".join(f"<div><h3>{name}: {n.total():,}</h3>{html}</div>" for name, n, html in tables)
    return f'<div class="grid three">{columns}</div>'


def _worst(rows: Sequence[Row], decoder: str, count: int, audio: AudioBudget) -> str:
    cards = []
    for row in worst(rows, decoder, count):
        n_words, errors = len(row["reference"].split()), n_errors(row, decoder)
        facts = [f"{errors} errors in {n_words} words", f"{row['duration_s']:.1f} s"]
        facts += [str(row[key]) for key in ("speaker", "accent", "age") if row.get(key)]
        others = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text) or '(nothing)'}</dd>"
            for name, text in {"said": row["reference"], **row["texts"]}.items()
        )
        cards.append(
            f"<article><p class=faint>{escape(' · '.join(facts))}</p>{audio.player(row.get('audio'))}"
            f"<p>{difference(row['reference'], row['texts'][decoder])}</p>"
            f"<details><summary>{escape(str(row['name']))}</summary><dl>{others}</dl></details></article>"
        )
    return f'<div class="grid two">{"".join(cards)}</div>'


def _percent(rate: Mapping[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{100 * rate['rate']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
