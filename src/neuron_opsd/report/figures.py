"""The report's figures: numbers in, `Figure` blocks out. Drawn with `svg.py`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from neuron_opsd.records import NeuronSets, SelectedQuestion
from neuron_opsd.report import svg
from neuron_opsd.report.blocks import Figure
from neuron_opsd.report.markup import Html, join, tag
from neuron_opsd.report.tables import difference_text, number

ROLES = {"base": "before training", "trained": "after training"}
ROW_HEIGHT = 40  # of the interval plot


def reliability(name: str, bins: Sequence[Mapping[str, Any]], *, role: str, where: str) -> Figure:
    """Accuracy against confidence by bin; dots on the diagonal are calibrated, below it overconfident.

    Dot area grows with the number of questions in the bin.
    """
    x, y = svg.x_axis("Confidence (vote share)", 0, 1), svg.y_axis("Accuracy of the majority answer", 0, 1)
    filled = [entry for entry in bins if entry["count"]]
    total = sum(entry["count"] for entry in filled)
    diagonal = svg.line([(x.place(0), y.place(0)), (x.place(1), y.place(1))], class_="diagonal")
    marks: list[Html] = []
    for entry in filled:
        at, ideal, real = (
            x.place(entry["confidence"]),
            y.place(entry["confidence"]),
            y.place(entry["accuracy"]),
        )
        marks.append(tag("line", class_="gap", x1=at, x2=at, y1=ideal, y2=real))
        radius = round(2.5 + 9 * math.sqrt(entry["count"] / total), 2)
        marks.append(tag("circle", class_=f"mark {role}", cx=at, cy=real, r=radius))
    title = f"Reliability {ROLES[role]}, {where}"
    words = "; ".join(
        f"confidence {number(e['confidence'])}: accuracy {number(e['accuracy'])} ({e['count']} questions)"
        for e in filled
    )
    description = f"Bins from low to high confidence. {words}."
    drawn = svg.drawing(name, title, description, svg.axes(x, y), diagonal, join(marks))
    return Figure(name, title, description, f"{title}: {total} questions in {len(filled)} bins.", drawn)


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
    return Figure(
        name, title, description, f"{title}. Coloured: the {len(chosen)} selected questions.", drawn
    )


def neurons_per_layer(sets: Sequence[NeuronSets]) -> Figure:
    """Mean number of count-set neurons in each layer."""
    name, title = "neurons-layer", "Count-set neurons by layer"
    depth = len(sets[0].neurons_per_layer)
    means = [sum(one.neurons_per_layer[layer] for one in sets) / len(sets) for layer in range(depth)]
    x, y = (
        svg.x_axis("Layer", -0.5, depth - 0.5),
        svg.y_axis("Neurons, mean over completions", 0, max(means) * 1.05),
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
    return Figure(name, title, description, f"{title}, mean over {len(sets)} completions.", drawn)


def training_curve(key: str, label: str, steps: Sequence[float], values: Sequence[float]) -> Figure:
    """One measured number against the training step."""
    name = "curve-" + "".join(c if c.isalnum() and c.isascii() else "-" for c in key)
    x, y = svg.x_axis("Step", min(steps), max(steps)), svg.y_axis(label, *_padded(values))
    points = [(x.place(step), y.place(value)) for step, value in zip(steps, values, strict=True)]
    description = (
        f"{label} from {number(values[0])} at step {steps[0]:g} to {number(values[-1])} at step "
        f"{steps[-1]:g}; lowest {number(min(values))}, highest {number(max(values))}."
    )
    drawn = svg.drawing(name, label, description, svg.axes(x, y), svg.line(points, class_="trained"))
    return Figure(name, label, description, f"{label} by training step.", drawn)


def differences(name: str, label: str, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> Figure:
    """Differences with intervals, a row for each domain, and a line at no difference."""
    title = f"{label}: difference after training"
    drawable = [(where, e["difference"]) for where, e in entries if e["difference"]["low"] is not None]
    ends = [value for _, d in drawable for value in (d["low"], d["high"], 0.0)] or [-1.0, 1.0]
    height = svg.TOP + ROW_HEIGHT * max(len(drawable), 1) + svg.BOTTOM
    x = svg.x_axis(title, *_padded(ends), left=svg.RIGHT)
    bottom = height - svg.BOTTOM
    parts = [tag("line", class_="zero", x1=x.place(0), x2=x.place(0), y1=svg.TOP - 6, y2=bottom)]
    for value in x.ticks():
        parts.append(svg.text(x.place(value), bottom + 17, svg.tick_text(value), anchor="middle"))
    parts.append(svg.text((x.start + x.end) / 2, height - 8, title, anchor="middle", class_="label"))
    for row, (where, change) in enumerate(drawable):
        at = svg.TOP + ROW_HEIGHT * row + 24
        parts.append(svg.text(x.start, at - 11, _clip(where, 48), class_="label"))
        ends_at = x.place(change["low"]), x.place(change["high"])
        parts.append(tag("line", class_="interval", x1=ends_at[0], x2=ends_at[1], y1=at, y2=at))
        parts.append(tag("circle", class_="mark trained", cx=x.place(change["value"]), cy=at, r=4.5))
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=bottom, y2=bottom))
    description = "; ".join(f"{where}: {difference_text(change)}" for where, change in drawable) + "."
    drawn = svg.drawing(name, title, description, join(parts), height=height)
    return Figure(name, title, description, f"{title}, with 95% intervals.", drawn)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.06
    return low - pad if low < 0 or low - pad >= 0 else 0.0, high + pad


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
