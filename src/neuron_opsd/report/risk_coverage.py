"""Risk and coverage: how often the most confident answers are wrong, before and after training."""

from collections.abc import Sequence

from neuron_opsd.report import svg
from neuron_opsd.report.blocks import Figure, Table
from neuron_opsd.report.figures import ROLES
from neuron_opsd.report.markup import join
from neuron_opsd.report.tables import number
from neuron_opsd.results import Both, CoveragePoint

HALF = 0.5  # the share of the answers that the caption names beside all of them


def risk_coverage(
    name: str,
    curves: Both[tuple[CoveragePoint, ...]],
    *,
    where: str,
    confidence: str,
    is_unreliable: bool = False,
) -> Figure:
    """Error rate against the share of questions answered, grey before and coloured after.

    Args:
        name: Of the drawing, unique on the page.
        curves: Of the results.
        where: The domain, in words.
        confidence: The kind of confidence, always named.
        is_unreliable: Said in the caption. The text beside it says why.
    """
    highest = max(point.risk for _, curve in curves.items() for point in curve)
    x = svg.x_axis("Share answered, most confident first", 0, 1)
    y = svg.y_axis("Share of them wrong", 0, min(highest * 1.06, 1.0) or 1.0)
    lines = [
        svg.line([(x.place(point.coverage), y.place(point.risk)) for point in curve], class_=role)
        for role, curve in curves.items()
    ]
    title = f"Risk and coverage on {where}, {confidence}"
    said = [f"{ROLES[role]} {_in_words(curve)}" for role, curve in curves.items()]
    description = f"Wrong answers: {'; '.join(said)}."
    rows = [
        [number(before.coverage), number(before.risk), number(after.risk)]
        for before, after in zip(curves.base, curves.trained, strict=True)
    ]
    data = Table(title, ["Share answered", "Wrong before", "Wrong after"], rows)
    caution = " Unreliable, see above." if is_unreliable else ""
    caption = (
        f"{title}. {description} Grey before, coloured after. A line that rises says that confident answers are right "
        f"more often.{caution}"
    )
    drawn = svg.drawing(name, title, description, svg.axes(x, y), join(*lines))
    return Figure(name, title, description, caption, drawn, data)


def _in_words(curve: Sequence[CoveragePoint]) -> str:
    half = next(point.risk for point in curve if point.coverage >= HALF)
    return f"{number(half)} of the more confident half, {number(curve[-1].risk)} of all"
