"""What training changed in the answers, without gold answers, beside what sampling alone would change."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.evaluation import metrics
from neuron_opsd.evaluation.votes import Votes, answers_flipped, resampled_flips

Array = NDArray[np.float64]
NUM_PERMUTATIONS = 400  # for what sampling alone would change


def answer_distribution(votes: dict[str, Votes]) -> dict[str, dict[str, float]] | None:
    """Share of each letter among all samples, and in the key; None where no question has choices."""
    base = votes["base"]
    if not base.is_choice.any():
        return None
    letters = metrics.answer_letters(*votes.values())
    names = [*letters, metrics.UNPARSABLE]
    shares = {
        role: dict(zip(names, metrics.answer_rows(v, letters).mean(axis=0), strict=True))
        for role, v in votes.items()
    }
    gold = [a for a, is_choice in zip(base.gold, base.is_choice, strict=True) if is_choice and a is not None]
    if gold:
        shares["gold"] = {letter: gold.count(letter) / len(gold) for letter in letters}
    return shares


def measure_changes(base: Votes, trained: Votes, seed: list[int]) -> dict[str, Any]:
    """What changed, needing no gold answer; beside each, what sampling the same model twice would show."""
    flipped = answers_flipped(base, trained)
    by_chance = resampled_flips(base, trained, num_permutations=NUM_PERMUTATIONS, seed=[*seed, 4])
    changes = {
        "answers_flipped": _change("Majority answers flipped", float(flipped.mean()), by_chance, len(base))
    }
    letters = metrics.answer_letters(base, trained)
    rows = metrics.answer_rows(base, letters), metrics.answer_rows(trained, letters)
    if len(rows[0]):
        shift = float(metrics.total_variation(rows[0].mean(axis=0), rows[1].mean(axis=0)))
        by_chance = _resampled_shift(*rows, seed=[*seed, 5])
        changes["answer_shift"] = _change("Shift of the answer distribution", shift, by_chance, len(rows[0]))
    return changes


def _resampled_shift(first: Array, second: Array, *, seed: list[int]) -> Array:
    """Total variation when each question's two models are swapped by the toss of a coin."""
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], size=(NUM_PERMUTATIONS, first.shape[0]))
    return np.abs(signs @ (second - first)).sum(axis=-1) / (2 * first.shape[0])


def _change(label: str, value: float, by_chance: Array, num_items: int) -> dict[str, Any]:
    low, high = np.quantile(by_chance, [0.025, 0.975])
    expected = {"mean": float(by_chance.mean()), "low": float(low), "high": float(high)}
    if num_items < metrics.MIN_QUESTIONS:
        verdict = "too few questions"
    else:
        verdict = "more than sampling alone" if value > high else "no difference shown"
    return {
        "label": label,
        "value": value,
        "by_chance": expected,
        "num_questions": num_items,
        "verdict": verdict,
    }
