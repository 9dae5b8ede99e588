"""Which question is trained on at which place: a pure function of the seed, so that any step can be resumed."""

import math
import random
from collections.abc import Sequence

from neuron_opsd.config import TrainingSettings
from neuron_opsd.random_state import derive_seed


def num_steps(num_questions: int, settings: TrainingSettings) -> int:
    """min(training.num_steps, max_epochs passes over the selection), and at least one step.

    With `training.max_tokens`, also at most as many steps as that can pay for: a completion has a token.
    """
    limits: list[float] = [settings.num_steps]
    if settings.max_epochs is not None:
        limits.append(settings.max_epochs * num_questions / settings.batch_size)
    if settings.max_tokens is not None:
        limits.append(settings.max_tokens / settings.completions_per_step())
    return max(1, math.ceil(min(limits)))


def question_order(question_ids: Sequence[str], num_items: int, *, seed: int) -> list[str]:
    """`num_items` question ids: pass after pass over the selection, each in a new order.

    Steps take consecutive slices of `batch_size`, so every step has a full batch and no question is seen twice before
    all were seen once.
    """
    order: list[str] = []
    epoch = 0
    while len(order) < num_items:
        ids = sorted(question_ids)
        random.Random(derive_seed(seed, "training", "epoch", epoch)).shuffle(ids)
        order += ids
        epoch += 1
    return order[:num_items]
