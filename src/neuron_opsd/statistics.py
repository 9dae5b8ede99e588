"""Intervals and correlations that every stage may use: numpy and scipy only, nothing random without a seed.

Bootstrap over questions: a resample is a vector of how often each question was drawn, and a statistic takes
these weights, so one set of resamples serves every metric of two models and their difference (that is the
pairing).
"""

# scipy has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Draws = dict[str, NDArray[np.float64]]
LEVEL = 0.95  # of every interval
MIN_QUESTIONS = 10  # below this a bootstrap interval means nothing: none is given, and no verdict
_RESAMPLES_AT_ONCE = 256  # bounds memory: this many resamples times the number of questions


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its interval. NaN ends where no interval can be given."""

    value: float
    low: float
    high: float

    def covers(self, point: float) -> bool:
        """Whether the point lies in the closed interval. False when there is no interval."""
        return self.low <= point <= self.high


@dataclass(frozen=True, slots=True)
class Correlation:
    """A correlation coefficient with its interval, over `num_items` pairs."""

    name: str
    value: float
    low: float
    high: float
    num_items: int


def bootstrap_draws(
    statistic: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    *,
    num_items: int,
    num_resamples: int,
    seed: int | list[int],
) -> Draws:
    """Values of named statistics over resamples of the items, drawn with replacement.

    Args:
        statistic: Takes weights of shape (resamples, items), each row summing to the number of items, and
            returns arrays of shape (resamples,). Every name sees the same resamples.
        num_items: Number of items resampled (questions).
        num_resamples: Number of resamples.
        seed: Seed, or list of seeds, of numpy's generator.
    """
    generator = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.float64]]] = {}
    uniform = np.full(num_items, 1 / num_items)
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        weights = generator.multinomial(num_items, uniform, size=size).astype(np.float64)
        for name, values in statistic(weights).items():
            parts.setdefault(name, []).append(np.asarray(values, dtype=np.float64))
    return {name: np.concatenate(values) for name, values in parts.items()}


def bootstrap_interval(value: float, draws: NDArray[Any]) -> Interval:
    """Percentile interval of the draws, moved so that the draws' mean lies on the estimate.

    A resample repeats questions, so statistics with a finite-sample bias (an ECE) are larger on resamples
    than on the sample, and a plain percentile interval can lie wholly above the estimate. Moving it makes the
    interval one for the statistic's expectation AT THIS NUMBER OF QUESTIONS. For a mean it changes nothing
    but noise.
    """
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or draws.size == 0:
        return Interval(float(value), float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) + (value - draws.mean())
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def bootstrap_p_value(draws: NDArray[Any], value: float) -> float:
    """Two-sided, against no difference: twice the smaller share of the draws on either side of 0.

    Draws are moved so that their mean is the value, as in `bootstrap_interval`. One draw more on each side keeps it
    above 0. No spread at 0 gives 1.
    """
    moved = draws[np.isfinite(draws)]
    moved = moved + (value - moved.mean())
    below, above = ((np.sum(side) + 1) / (moved.size + 1) for side in (moved <= 1e-12, moved >= -1e-12))
    return float(min(1.0, 2 * min(below, above)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of a family (Holm 1979): the i-th smallest of m times (m - i), i from 0, made monotone."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.zeros(len(p_values))
    largest = 0.0
    for i, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[int(place)]))
        adjusted[place] = largest
    return adjusted.tolist()


def paired_mean_difference(
    before: NDArray[Any],
    after: NDArray[Any],
    *,
    num_resamples: int = 2000,
    seed: int | list[int] = 0,
) -> Interval:
    """Mean of after - before over the same items, with its paired bootstrap interval."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if change.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    draws = bootstrap_draws(
        lambda weights: {"mean": weights @ change / change.size},
        num_items=change.size,
        num_resamples=num_resamples,
        seed=seed,
    )
    return bootstrap_interval(float(change.mean()), draws["mean"])


def pearson(first: NDArray[Any], second: NDArray[Any]) -> Correlation:
    """Pearson's r with Fisher's z interval, z = atanh(r) +- q / sqrt(n - 3). NaN for a constant side."""
    return _correlation("Pearson", np.asarray(first, float), np.asarray(second, float), 1.0)


def spearman(first: NDArray[Any], second: NDArray[Any]) -> Correlation:
    """Spearman's rho (Pearson's r of average ranks), interval by Fisher's z.

    The variance of z is (1 + rho^2 / 2) / (n - 3) (Bonett and Wright, Psychometrika 2000).
    """
    ranks = stats.rankdata(first), stats.rankdata(second)
    rho = _pearson_r(*ranks)
    return _correlation("Spearman", *ranks, 1 + rho**2 / 2)


def _pearson_r(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if first.size < 2:
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first @ first) * (second @ second))
    return float(np.clip(first @ second / scale, -1, 1)) if scale > 0 else float("nan")


def _correlation(
    name: str, first: NDArray[np.float64], second: NDArray[np.float64], variance_factor: float
) -> Correlation:
    r, n = _pearson_r(first, second), first.size
    if n < 4 or not np.isfinite(r):
        return Correlation(name, r, float("nan"), float("nan"), n)
    if abs(r) == 1:
        return Correlation(name, r, r, r, n)
    half_width = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance_factor / (n - 3))
    z = np.arctanh(r)
    return Correlation(name, r, float(np.tanh(z - half_width)), float(np.tanh(z + half_width)), n)
