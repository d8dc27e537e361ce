"""Charts as SVG text, for pages that must open offline: curves, error rates with intervals, surfaces.

Colours are CSS variables with a fallback, so that a chart follows the page it is part of, light or dark, and
also stands alone as a file. Every mark has a `<title>`, which browsers show under the pointer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

COLOURS = ("#2a6fdb", "#d9622b", "#16906b", "#a3489b", "#b58900", "#59636e")
_TEXT, _FAINT, _GRID = "var(--text, #1b1f24)", "var(--faint, #59636e)", "var(--grid, #d8dee4)"
_FONT = "font-family:system-ui,sans-serif;font-size:12px"
_CHARACTER = 7.3  # pixels, of the widest common characters


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False  # drawn thin in the colour of the next series: the raw values of a smoothed one


@dataclass(frozen=True)
class Interval:
    """One row of `interval_chart`."""

    label: str
    middle: float
    low: float
    high: float
    colour: int = 0  # of COLOURS
    note: str = ""  # behind the value
    heading: bool = False  # starts a group: drawn without a mark


def colour(index: int) -> str:
    """A CSS colour by number."""
    index %= len(COLOURS)
    return f"var(--c{index}, {COLOURS[index]})"


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str = "", percent: bool = False, log_y: bool = False
) -> str:
    """Curves over a common x axis; series without points are left out. log_y needs positive values."""
    shown = [s for s in series if len(s.x)]
    width, height, left, right, top, bottom = 400, 250, 52, 14, 34, 40
    parts = [_heading(title)]
    if not shown:
        return _svg(width, height, [*parts, _text(left, height / 2, "no values")], title)
    xs, ys = [v for s in shown for v in s.x], [v for s in shown for v in s.y]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    low, high = (math.log10(min(ys)), math.log10(max(ys))) if log_y else (min(ys), max(ys))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        y = math.log10(y) if log_y else y
        across = (x - x_low) / (x_high - x_low)
        return left + across * (width - left - right), height - bottom - (y - low) / (high - low) * (
            height - top - bottom
        )

    for tick in _log_ticks(low, high) if log_y else nice_ticks(low, high, 5):
        y = place(x_low, tick)[1]
        label = f"{100 * tick:g} %" if percent else _number(tick)
        parts.append(_line(left, y, width - right, y, _GRID) + _text(left - 6, y + 4, label, "end", _FAINT))
    for tick in nice_ticks(x_low, x_high, 5):
        parts.append(_text(place(tick, ys[0])[0], height - bottom + 16, _number(tick), "middle", _FAINT))
    parts.append(_text((left + width - right) / 2, height - 6, x_label, "middle", _FAINT))
    legend, number = float(left), 0
    for s in shown:
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(s.x, s.y, strict=True))
        style = "stroke-width:1;opacity:0.35" if s.faint else "stroke-width:2"
        shape = f'<polyline points="{points}" style="fill:none;stroke:{colour(number)};{style}">'
        parts.append(f"{shape}<title>{escape(s.label)}</title></polyline>")
        if s.faint:
            continue
        if sum(not other.faint for other in shown) > 1:
            parts.append(_line(legend, top - 8, legend + 14, top - 8, colour(number), 3))
            parts.append(_text(legend + 18, top - 4, s.label))
            legend += 30 + _CHARACTER * len(s.label)
        for x, y in zip(s.x, s.y, strict=True) if len(s.x) <= 60 else ():
            value = f"{100 * y:.1f} %" if percent else f"{y:.4g}"
            parts.append(_dot(*place(x, y), colour(number), f"{s.label} · {x:g}: {value}", radius=2.5))
        number += 1
    return _svg(width, height, parts, title)


def interval_chart(title: str, rows: Sequence[Interval], *, at_most: float = math.inf) -> str:
    """Fractions as dots with their intervals, a row each, shown in per cent. at_most: the axis' end."""
    width, row_height, top = 540, 22, 30
    left = 16 + _CHARACTER * max((len(row.label) for row in rows if not row.heading), default=0)
    right = 18 + _CHARACTER * max((len(_value(row)) for row in rows), default=0)
    high = min(at_most, max((row.high for row in rows if not row.heading), default=1.0) or 1.0)
    height = top + row_height * len(rows) + 26
    parts = [_heading(title)]

    def place(value: float) -> float:
        return left + min(value, high) / high * (width - left - right)

    for tick in nice_ticks(0.0, high, max(2, int((width - left - right) / 55))):
        parts.append(_line(place(tick), top, place(tick), height - 22, _GRID))
        parts.append(_text(place(tick), height - 8, f"{100 * tick:g} %", "middle", _FAINT))
    for number, row in enumerate(rows):
        y = top + row_height * (number + 0.5)
        if row.heading:
            parts.append(_text(0, y + 4, row.label, bold=True))
            continue
        parts.append(_text(left - 8, y + 4, row.label, "end"))
        parts.append(_line(place(row.low), y, place(row.high), y, colour(row.colour), 3, 0.45))
        parts.append(_dot(place(row.middle), y, colour(row.colour), f"{row.label}: {_value(row)}"))
        parts.append(_text(width - right + 10, y + 4, _value(row), colour=_FAINT))
    return _svg(width, height, parts, title)


def surface_chart(surface: dict[str, Any]) -> str:
    """A map of what `training.tuning.surface` gives: full colour is best, the ring is the chosen point."""
    x_values, y_values, rows = surface["x_values"], surface["y_values"], surface["objective"]
    width, height, left, top, side = 400, 376, 60, 34, 290
    cell_x, cell_y = side / len(x_values), side / len(y_values)
    flat = [value for row in rows for value in row]
    best, worst = min(flat), sorted(flat)[int(0.9 * (len(flat) - 1))]  # the far corners say nothing
    x_name, y_name = surface["x"], surface["y"]
    title = f"{x_name} and {y_name}: {100 * best:.2f} % at best"
    parts = [_heading(title)]
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            goodness = 1.0 - min(1.0, (value - best) / max(worst - best, 1e-9))
            style = f"fill:{colour(0)};opacity:{0.03 + 0.97 * goodness**2:.3f}"
            label = f"{x_name} {x_values[j]:g}, {y_name} {y_values[i]:g}: {100 * value:.2f} %"
            x, y = left + j * cell_x, top + side - (i + 1) * cell_y
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell_x + 0.3:.1f}" height="{cell_y + 0.3:.1f}" '
                f'style="{style}"><title>{label}</title></rect>'
            )

    def place(value: float, values: Sequence[float]) -> float:
        return (value - values[0]) / ((values[-1] - values[0]) or 1.0) * (side - cell_x) + cell_x / 2

    for tick in nice_ticks(x_values[0], x_values[-1], 5):
        parts.append(_text(left + place(tick, x_values), top + side + 16, _number(tick), "middle", _FAINT))
    for tick in nice_ticks(y_values[0], y_values[-1], 5):
        y = top + side - place(tick, y_values)
        parts.append(_text(left - 6, y + 4, _number(tick), "end", _FAINT))
    parts.append(_text(left + side / 2, height - 10, x_name, "middle"))
    turned = f'transform="rotate(-90 14 {top + side / 2})"'
    parts.append(_text(14, top + side / 2, y_name, "middle", extra=turned))
    x, y = left + place(surface["at"][0], x_values), top + side - place(surface["at"][1], y_values)
    ring = "fill:none;stroke:var(--c1, #d9622b);stroke-width:3"
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" style="{ring}"><title>chosen</title></circle>')
    return _svg(width, height, parts, title)


def beside(charts: Sequence[str], width: int = 400, height: int = 376) -> str:
    """Several charts of one size as one SVG file, side by side."""
    placed = [
        chart.replace("<svg ", f'<svg x="{i * width}" y="0" width="{width}" height="{height}" ', 1)
        for i, chart in enumerate(charts)
    ]
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return _svg(width * len(charts), height, [ground, *placed], "charts")


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high, both included where they are round; roughly `about` of them."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / about))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= about or m == 10)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Values whose decimal logarithm lies in low..high: 1, 2, 5 of each decade, or the decades alone."""
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    values = [factor * 10.0**decade for decade in decades for factor in factors]
    return [value for value in values if low <= math.log10(value) <= high]


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _value(row: Interval) -> str:
    if row.heading:
        return ""
    shown = f"{100 * row.middle:.1f}"
    if row.low < row.high:
        shown += f" ({100 * row.low:.1f}-{100 * row.high:.1f})"
    return f"{shown} {row.note}".rstrip()


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}" style="{_FONT}">{"".join(parts)}</svg>'
    )


def _heading(title: str) -> str:
    return _text(0, 14, title, bold=True)


def _text(
    x: float,
    y: float,
    content: str,
    anchor: str = "start",
    colour: str = _TEXT,
    bold: bool = False,
    extra: str = "",
) -> str:
    weight = ";font-weight:600" if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:{colour}{weight}" {extra}>'
        f"{escape(content)}</text>"
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1, opacity: float = 1.0
) -> str:
    style = f"stroke:{stroke};stroke-width:{width:g};opacity:{opacity:g}"
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{style}"/>'


def _dot(x: float, y: float, fill: str, label: str, radius: float = 5) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" style="fill:{fill}">'
        f"<title>{escape(label)}</title></circle>"
    )
