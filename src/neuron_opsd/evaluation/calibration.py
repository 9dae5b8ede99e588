"""Calibration measures: pure functions of confidences in [0, 1] and whether each answer was right.

Every measure takes optional `weights` over the items: none counts each once. Shape (items,) gives one value.
Shape (resamples, items) gives one value per resample, which is how `benchmark.py` gets intervals from one
bootstrap. The confidence is whatever the caller says it is. Here mostly the vote share (votes of the majority
answer / k).

Bins are (low, high] with 0 in the first, as in Guo et al. (1706.04599). torchmetrics uses [low, high) and
gives 1.0 a bin of its own, so the two agree except for confidences exactly on an edge.
"""

# scipy has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from neuron_opsd.results import Bin, BrierParts, CoveragePoint, Simulated

Array = NDArray[np.float64]
COVERAGES = tuple(step / 20 for step in range(1, 21))
SIMULATED_AT_ONCE = 2**20  # draws in memory
_EDGE = 1e-9  # 3/8 * 8 may be 3.0000000000000004: such a confidence belongs to the bin below the edge


def ece(confidence: Array, correct: Array, *, num_bins: int = 15, weights: Array | None = None) -> Array:
    """Expected calibration error: sum over equal-width bins of (n_bin / n) |accuracy - mean confidence|."""
    return _grouped_gap(confidence, correct, equal_width_bins(confidence, num_bins), weights)


def adaptive_ece(
    confidence: Array, correct: Array, *, num_bins: int = 15, weights: Array | None = None
) -> Array:
    """ECE with bins of equal mass. Equal confidences stay together, so the items' order has no part."""
    return _grouped_gap(confidence, correct, equal_mass_bins(confidence, num_bins), weights)


def mce(confidence: Array, correct: Array, *, num_bins: int = 15, weights: Array | None = None) -> Array:
    """Maximum calibration error: the largest |accuracy - mean confidence| of a non-empty equal-width bin."""
    weights = _weights(confidence, weights)
    groups = equal_width_bins(confidence, num_bins)
    counts = _sum_by_group(np.ones_like(confidence), groups, weights)
    gaps = np.abs(_sum_by_group(correct - confidence, groups, weights))
    return np.max(np.divide(gaps, counts, out=np.zeros_like(gaps), where=counts > 0), axis=-1)


def brier(confidence: Array, correct: Array, *, weights: Array | None = None) -> Array:
    """Brier score: mean of (confidence - correct)^2."""
    return _mean((confidence - correct) ** 2, weights)


def brier_decomposition(confidence: Array, correct: Array) -> BrierParts:
    """Murphy's parts over distinct confidences: brier = reliability - resolution + uncertainty, exactly.

    reliability: mean squared gap between a confidence and the accuracy at it (0 is best), resolution:
    variance of those accuracies (large is good), uncertainty: variance of correctness, which no confidence
    can change.
    """
    _, groups = np.unique(confidence, return_inverse=True)
    weights, ones = _weights(confidence, None), np.ones_like(confidence)
    counts = _sum_by_group(ones, groups, weights)
    accuracy = _sum_by_group(correct, groups, weights) / counts
    stated = _sum_by_group(confidence, groups, weights) / counts
    base_rate, share = correct.mean(), counts / counts.sum()
    return BrierParts(
        reliability=float(share @ (stated - accuracy) ** 2),
        resolution=float(share @ (accuracy - base_rate) ** 2),
        uncertainty=float(base_rate * (1 - base_rate)),
    )


def negative_log_likelihood(
    confidence: Array, correct: Array, *, margin: float, weights: Array | None = None
) -> Array:
    """Mean of -log(probability given to what happened), with confidences clipped to [margin, 1 - margin].

    A vote share of 1 that is wrong would be infinite. For k votes the caller passes margin = 1 / (2 k).
    """
    stated = np.clip(confidence, margin, 1 - margin)
    return _mean(-np.log(np.where(correct > 0.5, stated, 1 - stated)), weights)


def overconfidence(confidence: Array, correct: Array, *, weights: Array | None = None) -> Array:
    """Signed: mean confidence - accuracy. Positive is overconfident."""
    return _mean(confidence - correct, weights)


def auroc(confidence: Array, correct: Array, *, weights: Array | None = None) -> Array:
    """Chance that a right answer has more confidence than a wrong one, ties half. NaN if all are alike."""
    weights = _weights(confidence, weights)
    _, groups = np.unique(confidence, return_inverse=True)  # ascending confidence
    right = _sum_by_group(correct, groups, weights)
    wrong = _sum_by_group(1 - correct, groups, weights)
    wrong_below = np.cumsum(wrong, axis=-1) - wrong
    pairs = right.sum(axis=-1) * wrong.sum(axis=-1)
    won = np.sum(right * (wrong_below + wrong / 2), axis=-1)
    return np.divide(won, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def aurc(confidence: Array, correct: Array, *, weights: Array | None = None) -> Array:
    """Area under the risk-coverage curve: error rate of the most confident share, averaged over all shares.

    Answers with equal confidence are taken in at the error rate of their group, so ties do not depend on
    order.
    """
    weights = _weights(confidence, weights)
    _, groups = np.unique(-confidence, return_inverse=True)  # most confident first
    counts = _sum_by_group(np.ones_like(confidence), groups, weights)
    wrong = _sum_by_group(1 - correct, groups, weights)
    counts_before, wrong_before = np.cumsum(counts, axis=-1) - counts, np.cumsum(wrong, axis=-1) - wrong
    rate = np.divide(wrong, counts, out=np.zeros_like(wrong), where=counts > 0)
    total = np.zeros(counts.shape[:-1])
    for group in range(
        counts.shape[-1]
    ):  # sum over m = 1..count of (wrong_before + m rate) / (counts_before + m)
        start, size = counts_before[..., group], counts[..., group]
        offset = wrong_before[..., group] - rate[..., group] * start
        total = total + rate[..., group] * size + offset * (_harmonic(start + size) - _harmonic(start))
    return total / weights.sum(axis=-1)


def risk_coverage(confidence: Array, correct: Array) -> tuple[CoveragePoint, ...]:
    """The error rate of the most confident share of the answers, for each share in COVERAGES.

    Answers with equal confidence are taken in at the error rate of their group, as in `aurc`.
    """
    _, groups = np.unique(-confidence, return_inverse=True)  # most confident first
    weights = _weights(confidence, None)
    counts = np.cumsum(_sum_by_group(np.ones_like(confidence), groups, weights))
    wrong = np.cumsum(_sum_by_group(1 - correct, groups, weights))
    taken = np.array(COVERAGES) * len(confidence)
    risks = np.interp(taken, [0.0, *counts], [0.0, *wrong]) / taken
    return tuple(map(CoveragePoint, COVERAGES, risks.tolist()))


def reliability_bins(confidence: Array, correct: Array, *, num_bins: int = 15) -> tuple[Bin, ...]:
    """Count, mean confidence and accuracy of each equal-width bin."""
    groups = equal_width_bins(confidence, num_bins)
    members = [groups == index for index in range(num_bins)]
    return tuple(
        Bin(
            low=index / num_bins,
            high=(index + 1) / num_bins,
            count=int(here.sum()),
            confidence=float(confidence[here].mean()) if here.any() else None,
            accuracy=float(correct[here].mean()) if here.any() else None,
        )
        for index, here in enumerate(members)
    )


def perfect_calibration(
    confidence: Array,
    groups: NDArray[np.int64],
    *,
    maximum: bool = False,
    num_simulations: int = 1000,
    seed: int | list[int] = 0,
) -> Simulated:
    """The gap that a perfectly calibrated model shows at this n, by simulation: ECE, or MCE with `maximum`.

    Each simulation draws correctness ~ Bernoulli(confidence). Returns the mean and the central 95 %.
    """
    generator = np.random.default_rng(seed)
    counts = np.bincount(groups)
    draws = np.empty(num_simulations)
    at_once = max(1, SIMULATED_AT_ONCE // confidence.size)
    for start in range(0, num_simulations, at_once):
        shape = (min(at_once, num_simulations - start), confidence.size)
        gap = (generator.random(shape) < confidence) - confidence
        bins = groups + len(counts) * np.arange(len(gap))[:, None]  # each simulation has bins of its own
        sums = np.bincount(bins.ravel(), weights=gap.ravel(), minlength=len(counts) * len(gap))
        gaps = np.abs(sums.reshape(len(gap), -1))
        found = (gaps / np.maximum(counts, 1)).max(axis=1) if maximum else gaps.sum(axis=1) / confidence.size
        draws[start : start + len(gap)] = found
    return simulated(draws)


def simulated(draws: Array) -> Simulated:
    """Mean and central 95 % of what chance gave."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Simulated(float(draws.mean()), float(low), float(high))


def equal_width_bins(confidence: Array, num_bins: int) -> NDArray[np.int64]:
    """The bin of each confidence: (i / num_bins, (i + 1) / num_bins], and 0 in the first."""
    return np.clip(np.ceil(confidence * num_bins - _EDGE).astype(np.int64) - 1, 0, num_bins - 1)


def equal_mass_bins(confidence: Array, num_bins: int) -> NDArray[np.int64]:
    """The bin of each confidence, by the middle rank of all items that share it."""
    _, groups, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    bins = np.floor(middle / confidence.size * num_bins - _EDGE).astype(np.int64)
    return np.clip(bins, 0, num_bins - 1)[groups]


def _grouped_gap(
    confidence: Array, correct: Array, groups: NDArray[np.int64], weights: Array | None
) -> Array:
    weights = _weights(confidence, weights)
    gaps = np.abs(_sum_by_group(correct - confidence, groups, weights))
    return gaps.sum(axis=-1) / weights.sum(axis=-1)


def _weights(items: Array, weights: Array | None) -> Array:
    return np.ones(len(items)) if weights is None else np.asarray(weights, dtype=np.float64)


def _mean(values: Array, weights: Array | None) -> Array:
    weights = _weights(values, weights)
    return weights @ values / weights.sum(axis=-1)


def _sum_by_group(values: Array, groups: NDArray[np.int64], weights: Array) -> Array:
    """Weighted sums of each non-empty group, by ascending group, shape weights.shape[:-1] + (groups,)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return np.add.reduceat(weights[..., order] * values[order], starts, axis=-1)


def _harmonic(n: Array) -> Array:
    """The n-th harmonic number, elementwise."""
    return digamma(np.asarray(n) + 1) + np.euler_gamma
