"""OPSA (2608.31046): no teacher. The least likely tokens of the model's own completions become less likely.

A policy-gradient step on the chosen tokens, the `unlikely_fraction` of each completion whose probability was smallest
when they were sampled, with the advantage

    A = -1/2 - (H - Hmin) / (2 (Hmax - Hmin))          in [-1, -1/2]

H is the entropy of the model's distribution at the token, in nats. Hmin and Hmax are those of the chosen tokens of the
same completion, so that how a step is cut into micro-batches changes nothing. Sampling, checkpoints, guard rails and
several processes are those of distillation.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuron_opsd.model.divergence import entropy
from neuron_opsd.model.token_loss import TokenValues
from neuron_opsd.model.unembedding import logits_from_hidden
from neuron_opsd.training.items import TrainingItem, loss_places
from neuron_opsd.training.opsd_trainer import OpsdTrainer


class UnlikelyTokenTrainer(OpsdTrainer):
    """The loss is -A log p of the chosen tokens."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.token_loss = _log_probability

    def choose(self, items: list[TrainingItem]) -> tuple[list[TrainingItem], dict[str, float]]:
        """Mark each completion's least likely tokens."""
        items, figures = super().choose(items)
        fraction = self.settings.unlikely_fraction
        return [replace(item, loss_mask=least_likely(item.log_probs, fraction)) for item in items], figures

    def teacher_states(self, items: list[TrainingItem]) -> None:
        """There is no teacher."""

    def token_weights(self, items: list[TrainingItem], hidden: Tensor) -> Tensor:
        """-A of each chosen token. Its entropy takes one more product with the head."""
        with torch.no_grad():
            found = [
                entropy(torch.log_softmax(logits_from_hidden(self.unwrapped, part), dim=-1))
                for part in hidden.split(self.settings.loss_chunk_tokens)
            ]
        counts = [sum(loss_places(item, self.settings)) for item in items]
        return torch.cat([-advantages(part) for part in torch.cat(found).split(counts)])


def least_likely(log_probs: Sequence[float], fraction: float) -> tuple[bool, ...]:
    """Whether each token is among the `fraction` of smallest log-probability: at least one. Of equal ones the first."""
    count = max(1, math.floor(fraction * len(log_probs) + 0.5))
    chosen = set(sorted(range(len(log_probs)), key=lambda place: log_probs[place])[:count])
    return tuple(place in chosen for place in range(len(log_probs)))


def advantages(entropies: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Advantages of the chosen tokens of one completion. -1/2 where all entropies are equal."""
    if not len(entropies):
        return entropies
    low, high = entropies.min(), entropies.max()
    spread = (high - low).clamp(min=torch.finfo(entropies.dtype).tiny)
    return -0.5 - (entropies - low) / (2 * spread)


def _log_probability(student: Tensor, teacher: Tensor, tokens: Tensor) -> TokenValues:
    own = student.gather(1, tokens[:, None])[:, 0]
    nothing = torch.zeros_like(own)
    return TokenValues(own, nothing, torch.ones_like(own))
