"""The report's figures: numbers in, `Figure` blocks out. Drawn with `svg.py`."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from neuron_opsd.records import NeuronSets, SelectedQuestion
from neuron_opsd.report import svg
from neuron_opsd.report.blocks import Figure, Table
from neuron_opsd.report.markup import Html, join, tag
from neuron_opsd.report.tables import number
from neuron_opsd.results import Bin, Both, Role
from neuron_opsd.statistics import spearman

MOSTLY = 0.7  # of a rank correlation
SMALL_GAP = 0.02  # between confidence and accuracy
ROLES: Mapping[Role, str] = {"base": "before training", "trained": "after training"}
# Questions, mean confidence and accuracy of each bin that has any.
Filled = Sequence[tuple[int, float, float]]


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
    filled = _filled(bins)
    total = sum(count for count, _, _ in filled)
    title = f"Reliability {what}, {confidence}"
    words = "; ".join(
        f"confidence {number(stated)}: accuracy {number(accuracy)} ({count} questions)"
        for count, stated, accuracy in filled
    )
    description = f"Bins from low to high confidence. {words}."
    marks = svg.axes(x, y), _diagonal(x, y), _gaps(x, y, filled), _bins(x, y, filled, class_)
    drawn = svg.drawing(name, title, description, *marks)
    rows = [[number(stated), number(accuracy), f"{count:,}"] for count, stated, accuracy in filled]
    data = Table(title, ["Mean confidence", "Accuracy", "Questions"], rows)
    caution = " Unreliable, see above." if is_unreliable else ""
    caption = f"{title}: {_gap_in_words(filled)}. {total} questions in {len(filled)} bins.{caution}"
    return Figure(name, title, description, caption, drawn, data)


def reliability_before_and_after(
    name: str, bins: Both[tuple[Bin, ...]], *, where: str, confidence: str
) -> Figure:
    """Both models in one diagram, grey before and coloured after."""
    x, y = svg.x_axis(f"Confidence ({confidence})", 0, 1), svg.y_axis("Accuracy", 0, 1)
    both: list[tuple[Role, Filled]] = [(role, _filled(own)) for role, own in bins.items()]
    title = f"Reliability on {where}, {confidence}"
    said = [f"{ROLES[role]} {_gap_in_words(filled)}" for role, filled in both]
    marks = [_bins(x, y, filled, role) for role, filled in both]
    drawn = svg.drawing(name, title, f"{'; '.join(said)}.", svg.axes(x, y), _diagonal(x, y), *marks)
    rows = [
        [ROLES[role], number(stated), number(accuracy), f"{count:,}"]
        for role, filled in both
        for count, stated, accuracy in filled
    ]
    data = Table(title, ["Training", "Mean confidence", "Accuracy", "Questions"], rows)
    caption = f"{title}: {'; '.join(said)}. On the dashed line would be exact."
    return Figure(name, title, f"{'; '.join(said)}.", caption, drawn, data)


def _filled(bins: Sequence[Bin]) -> Filled:
    return [
        (one.count, one.confidence, one.accuracy)
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]


def _gap_in_words(filled: Filled) -> str:
    """Whether the model says more than it knows, by how much on average."""
    total = sum(count for count, _, _ in filled)
    if not total:
        return "nothing to show"
    gap = sum(count * (stated - accuracy) for count, stated, accuracy in filled) / total
    if abs(gap) < SMALL_GAP:
        return "about as often right as it says"
    return f"{'overconfident' if gap > 0 else 'underconfident'} by {number(abs(gap))} on average"


def _diagonal(x: svg.Axis, y: svg.Axis) -> Html:
    return svg.line([(x.place(0), y.place(0)), (x.place(1), y.place(1))], class_="diagonal")


def _gaps(x: svg.Axis, y: svg.Axis, filled: Filled) -> Html:
    """A line from each dot to the diagonal."""
    return join(
        *(
            tag(
                "line",
                class_="gap",
                x1=x.place(stated),
                x2=x.place(stated),
                y1=y.place(stated),
                y2=y.place(accuracy),
            )
            for _, stated, accuracy in filled
        )
    )


def _bins(x: svg.Axis, y: svg.Axis, filled: Filled, class_: str) -> Html:
    total = sum(count for count, _, _ in filled)
    return join(
        *(
            tag(
                "circle",
                class_=f"mark {class_}",
                cx=x.place(stated),
                cy=y.place(accuracy),
                r=round(2.5 + 9 * math.sqrt(count / total), 2),
            )
            for count, stated, accuracy in filled
        )
    )


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
    follows = "s(x) mostly follows length" if _follows(lengths, scores) else "s(x) says more than length"
    caption = f"{title}: {follows}. Coloured: the {len(chosen)} selected questions."
    return Figure(name, title, description, caption, drawn, _by_tenths(title, selection))


def _follows(lengths: Sequence[float], scores: Sequence[float]) -> bool:
    """Whether the order by score is nearly that by length, or its reverse."""
    found = spearman(np.array(lengths, dtype=np.float64), np.array(scores, dtype=np.float64)).value
    return abs(found) > MOSTLY


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
    caption = (
        f"{title}: {number(means[0])} in the lowest fifth, {number(means[-1])} in the highest. {len(pairs):,} "
        "questions, with 95% intervals."
    )
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
    caption = f"{title}: most are in layer {top}. Mean over {len(sets)} completions."
    return Figure(name, title, description, caption, drawn, data)


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
    caption = f"{label} by training step: from {number(values[0])} to {number(values[-1])}."
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


def identifier(text: str) -> str:
    """Text as part of an element's id."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower())


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high == 0:
        return 0.0, 1.0
    pad = (high - low) * 0.06
    return low - pad if low < 0 or low - pad >= 0 else 0.0, high + pad
