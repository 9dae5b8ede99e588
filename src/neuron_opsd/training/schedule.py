"""Which question is trained on at which place: a pure function of the seed, so that any step can be resumed."""

import math
import random
from collections.abc import Sequence

from neuron_opsd.config import TrainingSettings
from neuron_opsd.random_state import derive_seed


def num_steps(num_questions: int, settings: TrainingSettings) -> int:
    """min(training.num_steps, max_epochs passes over the selection), and at least one step."""
    if settings.max_epochs is None:
        return settings.num_steps
    return max(
        1, min(settings.num_steps, math.ceil(settings.max_epochs * num_questions / settings.batch_size))
    )


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
