"""A forest plot as SVG: one line an estimate, with its interval, around a reference; no dependency."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from neuron_opsd.statistics import Interval

WIDTH, LABELS, VALUES, LINE, TOP = 860, 300, 190, 22, 58
Entry = tuple[str, Interval | None]  # None: the label is a heading


def forest(path: Path, title: str, axis: str, entries: Sequence[Entry], *, reference: float = 0.0) -> None:
    """Write the picture.

    Args:
        path: Where the .svg goes.
        title: Above it.
        axis: What is measured, and in what.
        entries: Top to bottom.
        reference: Where nothing is shown: a dashed line.
    """
    intervals = [interval for _, interval in entries if interval is not None]
    low = min([reference, *(i.low for i in intervals)])
    high = max([reference, *(i.high for i in intervals)])
    step = _nice((high - low) / 5)
    low, high = step * math.floor(low / step), step * math.ceil(high / step)
    left, right = LABELS, WIDTH - VALUES
    height = TOP + LINE * len(entries) + 34

    def place(value: float) -> str:
        return f"{left + (value - low) / (high - low) * (right - left):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="sans-serif" font-size="12"><title>{escape(title)}</title>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold" fill="#111">{escape(title)}</text>',
        f'<text x="12" y="42" fill="#444">{escape(axis)}; lines: 95 % intervals</text>',
    ]
    bottom = TOP + LINE * len(entries)
    for k in range(round((high - low) / step) + 1):
        value = low + k * step
        parts.append(
            f'<line x1="{place(value)}" x2="{place(value)}" y1="{TOP}" y2="{bottom}" stroke="#e5e5e5"/>'
            f'<text x="{place(value)}" y="{bottom + 16}" text-anchor="middle" fill="#444">{_number(value, step)}</text>'
        )
    parts.append(
        f'<line x1="{place(reference)}" x2="{place(reference)}" y1="{TOP}" y2="{bottom}" stroke="#555" '
        'stroke-dasharray="4 3"/>'
    )
    for number, (label, interval) in enumerate(entries):
        y = TOP + LINE * number + LINE / 2
        weight = ' font-weight="bold"' if interval is None else ""
        parts.append(f'<text x="12" y="{y + 4}" fill="#111"{weight}>{escape(label)}</text>')
        if interval is None:
            continue
        shown = interval.low > reference or interval.high < reference
        colour = "#0b5394" if shown else "#777"
        parts.append(
            f'<line x1="{place(interval.low)}" x2="{place(interval.high)}" y1="{y}" y2="{y}" stroke="{colour}" '
            f'stroke-width="2"/><circle cx="{place(interval.value)}" cy="{y}" r="4" fill="{colour}"/>'
            f'<text x="{right + 12}" y="{y + 4}" fill="#111">{interval.value:.3f} [{interval.low:.3f}, '
            f"{interval.high:.3f}]</text>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _nice(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `step`."""
    power = 10 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def _number(value: float, step: float) -> str:
    return f"{value:.{max(0, -math.floor(math.log10(step)))}f}"
