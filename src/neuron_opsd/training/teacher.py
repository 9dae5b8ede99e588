"""The teacher's side of a step: the states by which it predicts each completion token, and its logits.

It is the student's network with other weights, reading the context before the question. While its weights stay as they
are, what it has read of contexts is kept: all through training if it is frozen, else within a step.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from neuron_opsd.config import TrainingSettings
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.order_average import FirstTokens, ViewStates, mean_log_probs, view_states
from neuron_opsd.model.shared_prompt import KeptPrefixes, scoring_states
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.model.unembedding import Head, head_of, logits_from_hidden
from neuron_opsd.training.items import TrainingItem


class Teacher:
    """Reads with the teacher's weights, without gradient and without dropout."""

    def __init__(self, reader: CausalLM, weights: TeacherWeights, settings: TrainingSettings) -> None:
        self.reader, self.weights = reader, weights
        self.temperature = 1.0  # where its entropy is matched, another
        self.first_tokens = FirstTokens()
        self.prefixes = KeptPrefixes(settings.keep_prefixes * 1_000_000)
        self.recurring: frozenset[tuple[int, ...]] = (
            frozenset()
        )  # contexts that this step reads more than once

    @property
    def is_frozen(self) -> bool:
        """Whether its weights are the same in every step."""
        return self.weights.kind == "frozen"

    def begin_step(self, batches: Sequence[Sequence[TrainingItem]]) -> None:
        """Before the first micro-batch. Unless the teacher is frozen, what it read in the last step is no more true."""
        if self.is_frozen:
            return
        self.prefixes.clear()
        # A prompt's own rows in a micro-batch share it without that.
        read = {
            (place, item.teacher_ids): item.context for place, batch in enumerate(batches) for item in batch
        }
        self.recurring = frozenset(context for context, count in Counter(read.values()).items() if count > 1)

    @torch.no_grad()
    def states(self, items: Sequence[TrainingItem]) -> Tensor | ViewStates:
        """The states by which the teacher predicts each completion token."""
        completions = [item.completion_ids for item in items]
        kept = {
            "kept": self.prefixes,
            "starts": [
                item.context_tokens if self.is_frozen or item.context in self.recurring else 0
                for item in items
            ],
        }
        with self.weights.applied():
            self.reader.eval()  # the teacher never has dropout
            views = [item.views for item in items]
            if not any(views):
                return scoring_states(self.reader, [item.teacher_ids for item in items], completions, **kept)
            if self.is_frozen and all(len(completion) == 1 for completion in completions):
                return self.first_tokens.states(self.reader, views, **kept)
            return view_states(self.reader, views, completions, **kept)

    def logits(self, hidden: Tensor, *orders: Tensor) -> Tensor:
        """The teacher's logits: the mean over the orders that it reads, at the matched temperature."""
        weight, bias = head_of(self.reader)
        head = Head(self.weights.value_of(weight), None if bias is None else self.weights.value_of(bias))
        logits = logits_from_hidden(self.reader, hidden, other=head)
        return (mean_log_probs(logits, *orders) if orders else logits) / self.temperature
