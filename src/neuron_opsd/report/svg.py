"""A few chart parts as SVG: scales, axes, marks.

Colours come from the page's style sheet (light and dark), text stays text, and the same numbers give the same
bytes. All charts are 330 units wide, so that a phone shows them at full size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.report.markup import Html, join, tag

WIDTH, HEIGHT = 330, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 12, 44


@dataclass(frozen=True, slots=True)
class Axis:
    """A labelled range of values drawn between two pixel positions."""

    label: str
    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Pixel position of a value."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.is_log
            else (self.low, self.high, value)
        )
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)

    def ticks(self) -> list[float]:
        """Round values inside the range."""
        return _log_ticks(self.low, self.high) if self.is_log else linear_ticks(self.low, self.high)


def x_axis(label: str, low: float, high: float, *, is_log: bool = False, left: float = LEFT) -> Axis:
    """A horizontal axis across the chart."""
    return Axis(label, *_widen(low, high), left, WIDTH - RIGHT, is_log)


def y_axis(label: str, low: float, high: float) -> Axis:
    """A vertical axis, upwards."""
    return Axis(label, *_widen(low, high), HEIGHT - BOTTOM, TOP)


def linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], about five of them."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's number, short: 12.5k, 0.25, 1e-6."""
    value = 0.0 if abs(value) < 1e-12 else value
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def axes(x: Axis, y: Axis) -> Html:
    """Grid lines, ticks and labels of both axes."""
    parts: list[Html] = []
    for value in y.ticks():
        at = y.place(value)
        parts.append(tag("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
        parts.append(text(x.start - 6, at + 4, tick_text(value), anchor="end"))
    for value in x.ticks():
        at = x.place(value)
        parts.append(tag("line", class_="axis", x1=at, x2=at, y1=y.start, y2=y.start + 4))
        parts.append(text(at, y.start + 17, tick_text(value), anchor="middle"))
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    parts.append(text((x.start + x.end) / 2, HEIGHT - 8, x.label, anchor="middle", class_="label"))
    middle = (y.start + y.end) / 2
    turn = f"rotate(-90 13 {middle:g})"
    parts.append(text(13, middle, y.label, anchor="middle", class_="label", transform=turn))
    return join(parts)


def text(x: float, y: float, content: str, *, anchor: str = "start", **attributes: str) -> Html:
    """A line of text."""
    return tag("text", content, x=float(x), y=float(y), text_anchor=anchor, **attributes)


def dots(points: Sequence[tuple[float, float]], *, class_: str) -> Html:
    """Many round dots as one path of zero-length strokes: 5,000 points stay small."""
    path = "".join(f"M{x:g} {y:g}h0" for x, y in points)
    return tag("path", class_=f"dots {class_}", d=path) if path else Html("")


def line(points: Sequence[tuple[float, float]], *, class_: str) -> Html:
    """A line through the points."""
    if len(points) == 1:
        return dots(points, class_=class_)
    return tag("polyline", class_=f"line {class_}", points=" ".join(f"{x:g},{y:g}" for x, y in points))


def drawing(name: str, title: str, description: str, *parts: Html, height: float = HEIGHT) -> Html:
    """A chart with its name and description for screen readers."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        parts,
        viewbox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in every if low * 0.999 <= value <= high * 1.001]
    tens = [value for value in inside if math.log10(value) % 1 < 1e-9]
    return tens if len(tens) >= 3 else inside


def _widen(low: float, high: float) -> tuple[float, float]:
    """The range, made non-empty."""
    if high > low:
        return low, high
    pad = abs(low) * 0.1 or 0.5
    return (low - pad if low - pad > 0 or low <= 0 else low / 2), high + pad
