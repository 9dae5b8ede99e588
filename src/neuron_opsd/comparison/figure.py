"""A figure of a comparison: its value, its bootstrap draws, and the row that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuron_opsd.comparison.gather import Array
from neuron_opsd.report.compared import Place
from neuron_opsd.results import Estimate
from neuron_opsd.statistics import MIN_QUESTIONS, bootstrap_interval

BEYOND = "beyond_majority"  # a method's Avg minus the base model's Maj


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that the table shows."""

    name: str
    label: str
    is_better_high: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and its bootstrap draws."""

    value: float
    draws: Array
    num_questions: int
    seeds: tuple[float, ...] = ()

    def minus(self, other: "Figure") -> "Figure":
        """The paired difference."""
        fewest = min(self.num_questions, other.num_questions)
        pairs = zip(self.seeds, other.seeds, strict=True) if len(self.seeds) == len(other.seeds) else ()
        seeds = tuple(own - theirs for own, theirs in pairs)
        return Figure(self.value - other.value, self.draws - other.draws, fewest, seeds)

    def estimate(self) -> Estimate:
        """Value and interval. No interval for too few questions."""
        interval = bootstrap_interval(self.value, self.draws)
        if self.num_questions < MIN_QUESTIONS or not np.isfinite(interval.low):
            return Estimate(self.value, None, None)
        return Estimate(self.value, interval.low, interval.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method at one place in one metric, its difference from base, and its marks.

    The p values are None where there are too few questions, and of what is no candidate. A figure that is a difference
    already has no `difference`.
    """

    method: str
    place: Place
    metric: str
    found: Estimate
    seeds_sd: float | None  # standard deviation over the seeds
    difference: Estimate | None
    p: float | None
    p_holm: float | None
    marks: tuple[str, ...]


def beyond_row(method: str, place: Place, mean: Figure) -> Row:
    """A figure that is a difference already. Its mark says on which side of 0 its interval lies."""
    found = mean.estimate()
    marks = []
    if found.low is not None and found.high is not None and not found.low <= 0 <= found.high:
        marks = ["beyond the base's majority" if found.low > 0 else "below the base's majority"]
    return Row(
        method=method, place=place, metric=BEYOND, found=found, seeds_sd=spread_of(mean), difference=None,
        p=None, p_holm=None, marks=tuple(marks),
    )  # fmt: skip


def spread_of(mean: Figure) -> float | None:
    """Standard deviation over the seeds."""
    return float(np.std(mean.seeds, ddof=1)) if len(mean.seeds) > 1 else None


def mean_of(own: Sequence[Figure]) -> Figure | None:
    """Over domains, each counted once."""
    if not own:
        return None
    draws = np.mean([figure.draws for figure in own], axis=0)
    num_seeds = min(len(figure.seeds) for figure in own)
    seeds = tuple(float(np.mean([figure.seeds[i] for figure in own])) for i in range(num_seeds))
    return Figure(float(np.mean([f.value for f in own])), draws, min(f.num_questions for f in own), seeds)
