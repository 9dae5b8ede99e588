"""Accuracy against calibration error: one run before and after, or many methods."""

from collections.abc import Sequence

from neuron_opsd.report import svg
from neuron_opsd.report.blocks import Figure, Table
from neuron_opsd.report.markup import Html, join, tag
from neuron_opsd.report.tables import interval_text, judgement_of
from neuron_opsd.results import Estimate, MetricResult

Point = tuple[str, Estimate, Estimate]  # label, accuracy, calibration error


def before_and_after(name: str, found: Sequence[tuple[str, MetricResult, MetricResult]]) -> Figure:
    """A line for each domain from the base model to the trained one. Up and left is better.

    Args:
        name: Of the drawing, unique on the page.
        found: Domain, its accuracy and its calibration error.
    """
    labels = (found[0][1].label, found[0][2].label)
    points = [
        point
        for where, accuracy, error in found
        for point in (
            (f"{where}, before", accuracy.base, error.base),
            (f"{where}, after", accuracy.trained, error.trained),
        )
    ]
    x, y = _axes(points, labels)
    marks: list[Html] = []
    for where, accuracy, error in found:
        places = [_place(x, y, accuracy.base, error.base), _place(x, y, accuracy.trained, error.trained)]
        marks.append(svg.line(places, class_="trained thin"))
        marks += [
            tag("circle", class_=f"mark {role}", cx=at[0], cy=at[1], r=5.0)
            for role, at in zip(("base", "trained"), places, strict=True)
        ]
        marks.append(_label(x, places, where))
    title = f"{labels[0]} against {labels[1]}, before and after training"
    moved = [f"{where}: {_moved(accuracy, error)}" for where, accuracy, error in found]
    caption = f"{title}. {'; '.join(moved)}. Grey before, coloured after. Up and to the left is better."
    return _figure(name, title, caption, points, labels, x, y, marks)


def _moved(accuracy: MetricResult, error: MetricResult) -> str:
    """What changed for sure in one domain."""
    judged = (("accuracy", judgement_of(accuracy)), ("calibration", judgement_of(error)))
    return ", ".join(f"{words} {found}" for words, found in judged if found) or "no sure change"


def methods(name: str, points: Sequence[tuple[int, Point]], *, where: str, labels: tuple[str, str]) -> Figure:
    """A numbered dot for each method. The numbers are those of the methods' table."""
    x, y = _axes([point for _, point in points], labels)
    marks: list[Html] = []
    for index, (_, accuracy, error) in points:
        at = _place(x, y, accuracy, error)
        marks.append(tag("circle", class_="disc", cx=at[0], cy=at[1], r=9.0))
        marks.append(svg.text(at[0], at[1] + 4, str(index), anchor="middle", class_="inside"))
    title = f"{labels[0]} against {labels[1]}, {where}"
    names = "; ".join(f"{index} {point[0]}" for index, point in points)
    caption = f"{title}. Up and to the left is better. {names}."
    return _figure(name, title, caption, [point for _, point in points], labels, x, y, marks)


def _axes(points: Sequence[Point], labels: tuple[str, str]) -> tuple[svg.Axis, svg.Axis]:
    x = svg.x_axis(labels[1], *_around([_value(error) for _, _, error in points]))
    return x, svg.y_axis(labels[0], *_around([_value(accuracy) for _, accuracy, _ in points]))


def _place(x: svg.Axis, y: svg.Axis, accuracy: Estimate, error: Estimate) -> tuple[float, float]:
    return x.place(_value(error)), y.place(_value(accuracy))


def _value(found: Estimate) -> float:
    """Accuracies and calibration errors have one wherever they were measured."""
    assert found.value is not None
    return found.value


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A range inside [0, 1] with room around the values."""
    pad = max((max(values) - min(values)) * 0.15, 0.02)
    return max(min(values) - pad, 0.0), min(max(values) + pad, 1.0)


def _label(x: svg.Axis, places: Sequence[tuple[float, float]], where: str) -> Html:
    """The domain beside its trained dot: towards the middle, and away from the line to the base dot."""
    (_, base_height), (at, height) = places
    is_right = at > (x.start + x.end) / 2
    shown = where if len(where) <= 24 else where[:23] + "…"
    return svg.text(
        at + (-8 if is_right else 8),
        height + (16 if base_height <= height else -8),
        shown,
        anchor="end" if is_right else "start",
        class_="label",
    )


def _figure(
    name: str,
    title: str,
    caption: str,
    points: Sequence[Point],
    labels: tuple[str, str],
    x: svg.Axis,
    y: svg.Axis,
    marks: list[Html],
) -> Figure:
    rows = [[label, interval_text(accuracy), interval_text(error)] for label, accuracy, error in points]
    description = "; ".join(f"{row[0]}: {labels[0]} {row[1]}, {labels[1]} {row[2]}" for row in rows) + "."
    drawn = svg.drawing(name, title, description, svg.axes(x, y), join(marks))
    return Figure(name, title, description, caption, drawn, Table(title, ["Whose", *labels], rows))
