"""Values with intervals, a row for each place or method: what changed, and how sure that is, at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.report import svg
from neuron_opsd.report.blocks import Figure, Table
from neuron_opsd.report.markup import Html, join, tag
from neuron_opsd.report.parts import clip
from neuron_opsd.report.tables import interval_text
from neuron_opsd.results import Estimate

LABEL_HEIGHT, MARK_HEIGHT = 24, 13
CLASSES = {"better": "good", "worse": "bad"}
NUM_LABEL_CHARACTERS = 21  # so that the difference, bold where it is judged, has room at its right


@dataclass(frozen=True, slots=True)
class Row:
    """One place: its values by class (`base` or `trained`), its difference in words, and how that is judged."""

    label: str
    values: Sequence[tuple[str, Estimate]]  # each has a value
    difference: str = ""
    judgement: str = ""


def forest(name: str, title: str, rows: Sequence[Row], *, label: str, conclusion: str) -> Figure:
    """The rows on one axis. `label` names the axis. `conclusion` opens the caption."""
    ends = [end for row in rows for _, found in row.values for end in _ends(found)]
    pad = (max(ends) - min(ends)) * 0.06
    low, high = min(ends) - pad, max(ends) + pad
    if min(ends) >= 0 and max(ends) <= 1:  # a share
        high = min(high, 1.0)
        low = max(min(low, high - 0.05), 0.0)
    heights = [LABEL_HEIGHT + MARK_HEIGHT * len(row.values) for row in rows]
    bottom = svg.TOP + sum(heights)
    x = svg.x_axis(label, max(low, 0.0) if min(ends) >= 0 else low, high, left=svg.RIGHT)
    parts: list[Html] = []
    for value in x.ticks():
        at = x.place(value)
        parts.append(tag("line", class_="grid", x1=at, x2=at, y1=svg.TOP, y2=bottom))
        parts.append(svg.text(at, bottom + 16, svg.tick_text(value), anchor="middle"))
    top = svg.TOP
    for row, height in zip(rows, heights, strict=True):
        parts += _drawn(row, x, top)
        top += height
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=bottom, y2=bottom))
    parts.append(svg.text((x.start + x.end) / 2, bottom + 34, label, anchor="middle", class_="label"))
    told = [[row.label, *(interval_text(found) for _, found in row.values), row.difference] for row in rows]
    description = "; ".join(f"{row[0]}: {' then '.join(row[1:-1])} {row[-1]}".rstrip() for row in told) + "."
    drawn = svg.drawing(name, title, description, join(parts), height=bottom + 42)
    columns = (
        ["Where", "Before", "After", "Difference"] if len(told[0]) == 4 else ["Whose", "Value", "Difference"]
    )
    caption = f"{title}. {conclusion}"
    return Figure(name, title, description, caption, drawn, Table(title, columns, told))


def _drawn(row: Row, x: svg.Axis, top: float) -> list[Html]:
    """The label, the difference in its colour, and a line with a dot for each value."""
    at = top + LABEL_HEIGHT - 9
    parts = [svg.text(x.start, at, _short(row.label), class_="label")]
    if row.difference:
        class_ = f"change {CLASSES.get(row.judgement, '')}".rstrip()
        parts.append(svg.text(x.end, at, row.difference, anchor="end", class_=class_))
    for index, (class_, found) in enumerate(row.values):
        height = top + LABEL_HEIGHT + MARK_HEIGHT * index
        value, low, high = (x.place(end) for end in (_ends(found)[0], _ends(found)[1], _ends(found)[2]))
        parts.append(tag("line", class_=f"interval {class_}", x1=low, x2=high, y1=height, y2=height))
        parts.append(tag("circle", class_=f"mark {class_}", cx=value, cy=height, r=4.5))
    return parts


def _ends(found: Estimate) -> tuple[float, float, float]:
    """Value, low and high; the value again where there is no interval."""
    assert found.value is not None
    return (
        found.value,
        found.value if found.low is None else found.low,
        found.value if found.high is None else found.high,
    )


def _short(label: str) -> str:
    """A label that leaves room. The mark of the trained domain goes first: it is in the caption."""
    if len(label) > NUM_LABEL_CHARACTERS:
        label = label.removesuffix(" (trained)")
    return clip(label, NUM_LABEL_CHARACTERS)
