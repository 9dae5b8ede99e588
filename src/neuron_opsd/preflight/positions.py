"""Rollouts of the pool -> does the model answer by position? No label is needed, and no further pass.

The share of each position among the readable answers is compared with what answers would have that do not look at
positions: half the sum of the absolute differences (the total variation distance).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.records import Rollout
from neuron_opsd.results import Measure, defined
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.statistics import MIN_QUESTIONS, bootstrap_draws, bootstrap_interval
from neuron_opsd.text.answers import LETTERS

Array = NDArray[np.float64]
MAX_POSITION_BIAS = 0.15  # a heuristic of ours
NUM_RESAMPLES = 1000
NUM_SIMULATED = 200


def position_counts(rollouts: Sequence[Rollout]) -> tuple[Array, Array]:
    """How often each question was answered by each position, and how often an even spread over its choices would be.

    Both of shape (questions with choices that were readably answered, positions). Positions are as they were shown.
    """
    given, even = [], []
    for group in group_by_question(rollouts).values():
        places = [
            rollout.choice_order.index(LETTERS.index(rollout.answer))
            for rollout in group
            if rollout.choice_order and rollout.answer is not None
        ]
        if places:
            size = len(group[0].choice_order)
            given.append(np.bincount(places, minlength=len(LETTERS)))
            even.append(np.where(np.arange(len(LETTERS)) < size, len(places) / size, 0.0))
    shape = (-1, len(LETTERS))
    return np.array(given, dtype=np.float64).reshape(shape), np.array(even).reshape(shape)


def position_bias(rollouts: Sequence[Rollout], *, seed: int) -> Measure | None:
    """The measure, with what chance alone would show in its note. None where no question has choices."""
    given, even = position_counts(rollouts)
    if not len(given):
        return None

    def distance(weights: Array) -> Array:
        total = weights @ given.sum(axis=1)
        return np.abs(weights @ given - weights @ even).sum(axis=-1) / 2 / total

    draws = bootstrap_draws(
        lambda weights: {"bias": distance(weights)},
        num_items=len(given),
        num_resamples=NUM_RESAMPLES,
        seed=seed,
    )
    found = bootstrap_interval(float(distance(np.ones(len(given)))), draws["bias"])
    enough = len(given) >= MIN_QUESTIONS
    by_chance = _by_chance(even, seed)
    shares, expected = given.sum(axis=0) / given.sum(), even.sum(axis=0) / even.sum()
    most = int(np.argmax(shares - expected))
    return Measure(
        name="position_bias",
        label="Position bias (share of answers away from an even spread over positions)",
        value=found.value,
        low=defined(found.low) if enough else None,
        high=defined(found.high) if enough else None,
        note=f"{LETTERS[most]} has {shares[most]:.0%} of the readable answers, {expected[most]:.0%} would be even. "
        f"Chance alone would show up to {by_chance:.3f}.",
        by_chance=by_chance,
    )


def answers_by_position(bias: Measure) -> bool:
    """Whether the measure is above what we put up with, by its whole interval, and above what chance would show.

    A distance is never below 0, so of few answers its interval lies too high.
    """
    assert bias.value is not None
    is_above = bias.low is not None and bias.low > MAX_POSITION_BIAS
    return is_above and bias.value > (bias.by_chance or 0.0)


def _by_chance(even: Array, seed: int) -> float:
    """What 97.5 % of simulations stay under, in which each answer is at a random position of its question."""
    generator = np.random.default_rng(seed)
    totals = even.sum(axis=1).round().astype(int)
    chances = even / even.sum(axis=1, keepdims=True)
    expected = even.sum(axis=0)
    found = [
        np.abs(generator.multinomial(totals, chances).sum(axis=0) - expected).sum() / 2 / totals.sum()
        for _ in range(NUM_SIMULATED)
    ]
    return float(np.quantile(found, 0.975))
