"""What training changed in the answers, without gold answers, beside what sampling alone would change."""

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.evaluation import metrics
from neuron_opsd.evaluation.calibration import simulated
from neuron_opsd.evaluation.votes import Votes, answers_flipped, resampled_flips
from neuron_opsd.results import AnswerShares, Both, Change, Changes
from neuron_opsd.statistics import MIN_QUESTIONS

Array = NDArray[np.float64]
NUM_PERMUTATIONS = 400  # for what sampling alone would change


def answer_distribution(votes: Both[Votes]) -> AnswerShares | None:
    """Share of each letter among all samples, and in the key. None where no question has choices."""
    base = votes.base
    if not base.is_choice.any():
        return None
    letters = metrics.answer_letters(base, votes.trained)
    gold = [a for a, is_choice in zip(base.gold, base.is_choice, strict=True) if is_choice and a is not None]
    return AnswerShares(
        base=_letter_shares(base, letters),
        trained=_letter_shares(votes.trained, letters),
        gold={letter: gold.count(letter) / len(gold) for letter in letters} if gold else None,
    )


def _letter_shares(votes: Votes, letters: list[str]) -> dict[str, float]:
    shares = metrics.answer_rows(votes, letters).mean(axis=0)
    return dict(zip([*letters, metrics.UNPARSABLE], shares.tolist(), strict=True))


def measure_changes(base: Votes, trained: Votes, seed: list[int]) -> Changes:
    """What changed, needing no gold answer. Beside each, what sampling the same model twice would show."""
    flipped = answers_flipped(base, trained)
    by_chance = resampled_flips(base, trained, num_permutations=NUM_PERMUTATIONS, seed=[*seed, 4])
    return Changes(
        answers_flipped=_change("Majority answers flipped", float(flipped.mean()), by_chance, len(base)),
        answer_shift=_answer_shift(base, trained, [*seed, 5]),
    )


def _answer_shift(base: Votes, trained: Votes, seed: list[int]) -> Change | None:
    """How far the shares of the letters moved. None where no question has choices."""
    letters = metrics.answer_letters(base, trained)
    rows = metrics.answer_rows(base, letters), metrics.answer_rows(trained, letters)
    if not len(rows[0]):
        return None
    shift = float(metrics.total_variation(rows[0].mean(axis=0), rows[1].mean(axis=0)))
    by_chance = _resampled_shift(*rows, seed=seed)
    return _change("Shift of the answer distribution", shift, by_chance, len(rows[0]))


def _resampled_shift(first: Array, second: Array, *, seed: list[int]) -> Array:
    """Total variation when each question's two models are swapped by the toss of a coin."""
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], size=(NUM_PERMUTATIONS, first.shape[0]))
    return np.abs(signs @ (second - first)).sum(axis=-1) / (2 * first.shape[0])


def _change(label: str, value: float, by_chance: Array, num_items: int) -> Change:
    expected = simulated(by_chance)
    if num_items < MIN_QUESTIONS:
        verdict = "too few questions"
    else:
        verdict = "more than sampling alone" if value > expected.high else "no difference shown"
    return Change(label=label, value=value, by_chance=expected, num_questions=num_items, verdict=verdict)
