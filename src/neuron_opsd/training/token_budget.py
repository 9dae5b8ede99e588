"""A budget of tokens: training ends with the step at which it is spent, whatever trains (`training.max_tokens`).

What counts is every completion token that was generated for training, in the stages before it and in it, and every
token that carried loss: a token that is sampled and then learnt from counts twice. Prompts, the teacher's reading of
them and evaluation count nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neuron_opsd.errors import DataError

logger = logging.getLogger(__name__)


def tokens_left(max_tokens: int | None, num_generated_before: int) -> int | None:
    """What training may take once the stages before it are paid for. None without a budget.

    Raises:
        DataError: none are left.
    """
    if max_tokens is not None and num_generated_before >= max_tokens:
        raise DataError(
            f"training.max_tokens is {max_tokens}, and the stages before training have generated "
            f"{num_generated_before} tokens: nothing is left to train with. Raise it, or make fewer rollouts."
        )
    return None if max_tokens is None else max_tokens - num_generated_before


class TokenBudget(TrainerCallback):
    """Ends training after the row with which `budget` is spent. `rows` is the list that the trainer appends to."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], budget: int | None) -> None:
        self.rows, self.budget = rows, budget

    @property
    def is_spent(self) -> bool:
        """A pure function of the rows, so a resumed run ends where an uninterrupted one does."""
        taken = sum(row["num_completion_tokens"] + row["num_loss_tokens"] for row in self.rows)
        return self.budget is not None and taken >= self.budget

    def last_step(self, num_steps: int) -> int:
        """The step that training ended with, of `num_steps` at most."""
        return self.rows[-1]["step"] if self.is_spent else num_steps

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After each row."""
        if self.is_spent and not control.should_training_stop:
            logger.info("training: training.max_tokens is spent with step %d", state.global_step)
            control.should_training_stop = True
