"""A budget of tokens: what counts, and where training ends."""

import pytest

from neuron_opsd.config import TrainingSettings
from neuron_opsd.errors import DataError
from neuron_opsd.training.schedule import num_steps
from neuron_opsd.training.token_budget import TokenBudget, tokens_left

ROWS = [{"step": step, "num_completion_tokens": 60, "num_loss_tokens": 40} for step in (1, 2, 3)]


def test_generated_and_learnt_tokens_both_count() -> None:
    assert not TokenBudget(ROWS, 301).is_spent
    assert TokenBudget(ROWS, 300).is_spent
    assert TokenBudget(ROWS, 300).last_step(9) == 3
    assert TokenBudget(ROWS, 301).last_step(9) == 9
    assert not TokenBudget(ROWS, None).is_spent


def test_the_stages_before_are_paid_first() -> None:
    assert tokens_left(1000, 300) == 700
    assert tokens_left(None, 300) is None
    with pytest.raises(DataError, match="nothing is left"):
        tokens_left(300, 300)


def test_no_more_steps_are_planned_than_could_be_paid_for() -> None:
    given = {"num_steps": 10_000, "max_epochs": None, "max_tokens": 1000, "batch_size": 4}
    assert num_steps(50, TrainingSettings(**given)) == 250
    assert num_steps(50, TrainingSettings(**given, objective="majority_reward", num_rollouts=8)) == 32
    assert num_steps(50, TrainingSettings(**given, objective="majority_sft", num_rollouts=8)) == 250
