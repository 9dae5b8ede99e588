"""The stage's one entry: gold answers are opened here, after all training is done, and go no further than results."""

from collections.abc import Sequence
from typing import Any

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.evaluation.benchmark import compare
from neuron_opsd.records import Question, Rollout


def evaluate(
    questions: Sequence[Question],
    base: Sequence[Rollout],
    trained: Sequence[Rollout],
    settings: EvaluationSettings,
    *,
    train_domain: str,
    seed: int,
) -> dict[str, Any]:
    """Compare the trained model with the base on the test questions; see `benchmark.compare` for what it returns.

    Gold answers come from `settings.answers`; without any, the comparison holds what can be said without labels.
    """
    key = load_answer_key(settings.answers, questions) if settings.answers else {}
    return compare(questions, base, trained, key, settings, train_domain=train_domain, seed=seed)
