"""The report's figures: numbers in, `Figure` blocks out. Drawn with `svg.py`."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from neuron_opsd.records import NeuronSets, SelectedQuestion
from neuron_opsd.report import svg
from neuron_opsd.report.blocks import Figure, Table
from neuron_opsd.report.markup import Html, join, tag
from neuron_opsd.report.tables import difference_text, number
from neuron_opsd.results import Bin, MetricResult, Role

ROLES: Mapping[Role, str] = {"base": "before training", "trained": "after training"}
ROW_HEIGHT = 40  # of the interval plot


def reliability(
    name: str,
    bins: Sequence[Bin],
    *,
    what: str,
    confidence: str,
    class_: str,
    is_unreliable: bool = False,
) -> Figure:
    """Accuracy against confidence by bin. Dots on the diagonal are calibrated, below it overconfident.

    Dot area grows with the number of questions in the bin.

    Args:
        name: Of the drawing, unique on the page.
        bins: Of the results.
        what: Whose: model and domain, in words.
        confidence: The kind of confidence, always named.
        class_: `base` or `trained`, for the colour.
        is_unreliable: Said in the caption. The text beside it says why.
    """
    x, y = (
        svg.x_axis(f"Confidence ({confidence})", 0, 1),
        svg.y_axis("Accuracy", 0, 1),
    )
    filled = [
        (one.count, one.confidence, one.accuracy)
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]
    total = sum(count for count, _, _ in filled)
    diagonal = svg.line([(x.place(0), y.place(0)), (x.place(1), y.place(1))], class_="diagonal")
    marks: list[Html] = []
    for count, stated, accuracy in filled:
        at, ideal, real = x.place(stated), y.place(stated), y.place(accuracy)
        marks.append(tag("line", class_="gap", x1=at, x2=at, y1=ideal, y2=real))
        radius = round(2.5 + 9 * math.sqrt(count / total), 2)
        marks.append(tag("circle", class_=f"mark {class_}", cx=at, cy=real, r=radius))
    title = f"Reliability {what}, {confidence}"
    words = "; ".join(
        f"confidence {number(stated)}: accuracy {number(accuracy)} ({count} questions)"
        for count, stated, accuracy in filled
    )
    description = f"Bins from low to high confidence. {words}."
    drawn = svg.drawing(name, title, description, svg.axes(x, y), diagonal, join(marks))
    rows = [[number(stated), number(accuracy), f"{count:,}"] for count, stated, accuracy in filled]
    data = Table(title, ["Mean confidence", "Accuracy", "Questions"], rows)
    caption = f"{title}: {total} questions in {len(filled)} bins.{' Unreliable, see above.' if is_unreliable else ''}"
    return Figure(name, title, description, caption, drawn, data)


def consensus_against_length(selection: Sequence[SelectedQuestion]) -> Figure:
    """s(x) against completion length, the selected questions in colour."""
    name, title = "consensus-length", "Consensus score against completion length"
    lengths = [max(s.num_completion_tokens, 1) for s in selection]
    scores = [s.consensus_score for s in selection]
    x = svg.x_axis("Completion length (tokens, log scale)", min(lengths), max(lengths), is_log=True)
    y = svg.y_axis("s(x), neurons in the count set", *_padded(scores))
    places = [(x.place(n), y.place(s)) for n, s in zip(lengths, scores, strict=True)]
    chosen = [place for place, s in zip(places, selection, strict=True) if s.selected]
    others = [place for place, s in zip(places, selection, strict=True) if not s.selected]
    description = (
        f"{len(selection)} questions; lengths from {min(lengths)} to {max(lengths)} tokens, scores from "
        f"{number(min(scores))} to {number(max(scores))}. {len(chosen)} are selected."
    )
    marks = svg.dots(others, class_="base"), svg.dots(chosen, class_="trained")
    drawn = svg.drawing(name, title, description, svg.axes(x, y), *marks)
    caption = f"{title}. Coloured: the {len(chosen)} selected questions."
    return Figure(name, title, description, caption, drawn, _by_tenths(title, selection))


def _by_tenths(title: str, selection: Sequence[SelectedQuestion]) -> Table:
    """The pool in ten groups of increasing s(x)."""
    ordered = sorted(selection, key=lambda s: s.consensus_score)
    edges = [round(tenth * len(ordered) / 10) for tenth in range(11)]
    groups = [ordered[low:high] for low, high in pairwise(edges) if high > low]
    rows = [
        [
            f"{number(group[0].consensus_score)} to {number(group[-1].consensus_score)}",
            f"{len(group):,}",
            number(sum(s.num_completion_tokens for s in group) / len(group)),
            f"{sum(s.selected for s in group):,}",
        ]
        for group in groups
    ]
    return Table(f"{title}, by tenths", ["s(x)", "Questions", "Mean completion tokens", "Selected"], rows)


def consensus_against(what: str, pairs: Sequence[tuple[float, float]]) -> Figure:
    """Mean of a share in five groups of increasing s(x), with 95% intervals.

    Args:
        what: The share's name, e.g. "Vote share".
        pairs: s(x) and the share of each question.
    """
    ordered = sorted(pairs)
    edges = [round(fifth * len(ordered) / 5) for fifth in range(6)]
    groups = [np.array(ordered[a:b], dtype=np.float64) for a, b in pairwise(edges) if b > a]
    centres, means = [float(g[:, 0].mean()) for g in groups], [float(g[:, 1].mean()) for g in groups]
    errors = [1.96 * float(g[:, 1].std(ddof=1)) / math.sqrt(len(g)) if len(g) > 1 else 0.0 for g in groups]
    x, y = svg.x_axis("s(x), mean of each fifth", *_padded(centres)), svg.y_axis(what, 0, 1)
    marks: list[Html] = []
    for centre, mean, error in zip(centres, means, errors, strict=True):
        at, ends = x.place(centre), [min(max(mean + side * error, 0.0), 1.0) for side in (-1, 1)]
        marks.append(tag("line", class_="interval", x1=at, x2=at, y1=y.place(ends[0]), y2=y.place(ends[1])))
        marks.append(tag("circle", class_="mark trained", cx=at, cy=y.place(mean), r=4.5))
    title = f"{what} against the consensus score"
    rows = [
        [number(c), number(m), number(e), f"{len(g):,}"]
        for c, m, e, g in zip(centres, means, errors, groups, strict=True)
    ]
    data = Table(title, ["Mean s(x)", what, "± (95%)", "Questions"], rows)
    description = "; ".join(f"s(x) {row[0]}: {row[1]} ± {row[2]}" for row in rows) + "."
    name = "consensus-" + identifier(what)
    drawn = svg.drawing(name, title, description, svg.axes(x, y), join(marks))
    caption = f"{title}: {len(pairs):,} questions in fifths of s(x), with 95% intervals."
    return Figure(name, title, description, caption, drawn, data)


def neurons_per_layer(sets: Sequence[NeuronSets]) -> Figure:
    """Mean number of count-set neurons in each layer."""
    name, title = "neurons-layer", "Count-set neurons by layer"
    depth = len(sets[0].neurons_per_layer)
    means = [sum(one.neurons_per_layer[layer] for one in sets) / len(sets) for layer in range(depth)]
    x, y = (
        svg.x_axis("Layer", -0.5, depth - 0.5),
        svg.y_axis("Neurons (mean)", 0, max(means) * 1.05),
    )
    width = (x.end - x.start) / depth
    bars = [
        tag(
            "rect",
            class_="bar",
            x=x.place(layer) - width * 0.4,
            width=width * 0.8,
            y=y.place(mean),
            height=max(y.start - y.place(mean), 0.0),
        )
        for layer, mean in enumerate(means)
    ]
    top = means.index(max(means))
    description = (
        f"{depth} layers, {len(sets)} completions. Most in layer {top} ({number(means[top])}), "
        f"fewest in layer {means.index(min(means))} ({number(min(means))})."
    )
    drawn = svg.drawing(name, title, description, svg.axes(x, y), join(bars))
    data = Table(title, ["Layer", "Neurons"], [[str(i), number(mean)] for i, mean in enumerate(means)])
    return Figure(name, title, description, f"{title}, mean over {len(sets)} completions.", drawn, data)


def training_curve(
    key: str,
    label: str,
    steps: Sequence[float],
    values: Sequence[float],
    *,
    limits: Sequence[float | None] = (None, None),
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """One measured number against the training step.

    Args:
        key: Its name in a metrics row.
        label: Its name on the axis.
        steps: Of the values.
        values: At least one.
        limits: Of its guard rail, low and high, where there are any: drawn as dashed lines.
        marks: Steps to mark by an upright line, by what happened there.
    """
    name = f"curve-{identifier(key)}"
    rails = [limit for limit in limits if limit is not None]
    x, y = svg.x_axis("Step", min(steps), max(steps)), svg.y_axis(label, *_padded([*values, *rails]))
    points = [(x.place(step), y.place(value)) for step, value in zip(steps, values, strict=True)]
    lines = [tag("line", class_="limit", x1=x.start, x2=x.end, y1=y.place(r), y2=y.place(r)) for r in rails]
    for words, step in (marks or {}).items():
        at = x.place(min(max(step, x.low), x.high))
        lines.append(tag("line", class_="stop", x1=at, x2=at, y1=y.start, y2=y.end))
        is_right = at > (x.start + x.end) / 2
        side = {"anchor": "end"} if is_right else {}
        lines.append(svg.text(at + (-4 if is_right else 4), y.end + 9, words, class_="label", **side))
    description = (
        f"{label} from {number(values[0])} at step {steps[0]:g} to {number(values[-1])} at step "
        f"{steps[-1]:g}; lowest {number(min(values))}, highest {number(max(values))}."
    )
    caption = f"{label} by training step."
    if rails:
        between = " and ".join(number(rail) for rail in rails)
        description += f" Guard rail at {between}."
        caption += f" Dashed: the guard rail at {between}, for the mean of the last steps."
    drawn = svg.drawing(
        name, label, description, svg.axes(x, y), join(lines), svg.line(points, class_="trained")
    )
    return Figure(name, label, description, caption, drawn, _thinned(label, steps, values))


def _thinned(label: str, steps: Sequence[float], values: Sequence[float]) -> Table:
    """At most twenty rows of a curve, the first and the last among them."""
    last = len(steps) - 1
    kept = sorted({round(index * last / 19) for index in range(20)}) if last >= 20 else range(last + 1)
    return Table(label, ["Step", label], [[f"{steps[i]:g}", number(values[i])] for i in kept])


def differences(name: str, label: str, found: Sequence[tuple[str, MetricResult]]) -> Figure:
    """Differences with intervals, a row for each domain, and a line at no difference."""
    title = f"{label}: difference after training"
    changes = [(where, metric.difference) for where, metric in found]
    drawable = [
        (where, change, (change.value, change.low, change.high))
        for where, change in changes
        if change.value is not None and change.low is not None and change.high is not None
    ]
    ends = [end for *_, (_, low, high) in drawable for end in (low, high, 0.0)] or [-1.0, 1.0]
    height = svg.TOP + ROW_HEIGHT * max(len(drawable), 1) + svg.BOTTOM
    x = svg.x_axis(title, *_padded(ends), left=svg.RIGHT)
    bottom = height - svg.BOTTOM
    parts = [tag("line", class_="zero", x1=x.place(0), x2=x.place(0), y1=svg.TOP - 6, y2=bottom)]
    for value in x.ticks():
        parts.append(svg.text(x.place(value), bottom + 17, svg.tick_text(value), anchor="middle"))
    parts.append(svg.text((x.start + x.end) / 2, height - 8, title, anchor="middle", class_="label"))
    for row, (where, _, (value, low, high)) in enumerate(drawable):
        at = svg.TOP + ROW_HEIGHT * row + 24
        parts.append(svg.text(x.start, at - 11, _clip(where, 48), class_="label"))
        ends_at = x.place(low), x.place(high)
        parts.append(tag("line", class_="interval", x1=ends_at[0], x2=ends_at[1], y1=at, y2=at))
        parts.append(tag("circle", class_="mark trained", cx=x.place(value), cy=at, r=4.5))
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=bottom, y2=bottom))
    description = "; ".join(f"{where}: {difference_text(change)}" for where, change, _ in drawable) + "."
    drawn = svg.drawing(name, title, description, join(parts), height=height)
    data = Table(
        title, ["Domain", "Difference"], [[where, difference_text(change)] for where, change, _ in drawable]
    )
    return Figure(name, title, description, f"{title}, with 95% intervals.", drawn, data)


def identifier(text: str) -> str:
    """Text as part of an element's id."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower())


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high == 0:
        return 0.0, 1.0
    pad = (high - low) * 0.06
    return low - pad if low < 0 or low - pad >= 0 else 0.0, high + pad


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
