"""Completions of one token, drawn from the pass that learns from them.

The state behind the bare prompt predicts the token, and the loss compares it with the teacher's. Which token is drawn
changes neither, as long as the loss is not of that token alone and no vote chooses among completions. To sample first
would be to read every prompt twice. So the token is drawn once its state is there, from the random numbers that the
engine would take. A step's row in metrics.jsonl says by it how many answers can be read, and how many end.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.sampling import draw_uniforms, sample_tokens
from neuron_opsd.training.items import TrainingItem, student_sampling

ReadAnswer = Callable[[TrainingItem], str | None]  # the canonical answer of a completion. None: unreadable


class OneTokenDraws:
    """Draws the token of each completion of a step, and counts what the step reports of them."""

    def __init__(
        self, settings: TrainingSettings, end_ids: Sequence[int], read_answer: ReadAnswer | None
    ) -> None:
        self.sampling, self.chunk = student_sampling(settings), settings.loss_chunk_tokens
        self.end_ids, self.read_answer = frozenset(end_ids), read_answer
        self.begin([])

    def begin(self, items: Sequence[TrainingItem]) -> list[TrainingItem]:
        """The items of a step, each with a token that stands for the one to be drawn."""
        self.num_cut = self.num_read = 0
        return [replace(item, completion_ids=(0,)) for item in items]

    @torch.no_grad()
    def draw(
        self,
        items: Sequence[TrainingItem],
        states: Float[Tensor, "items hidden"],
        logits_of: Callable[[Tensor], Tensor],
    ) -> list[TrainingItem]:
        """The items with their tokens, which `states` predict. Few states have their logits at once."""
        uniforms = torch.cat([draw_uniforms(item.seed, 1) for item in items]).to(states.device)
        parts = (
            sample_tokens(logits_of(own), numbers, self.sampling)
            for own, numbers in zip(states.split(self.chunk), uniforms.split(self.chunk), strict=True)
        )
        tokens, log_probs = (torch.cat(values).tolist() for values in zip(*parts, strict=True))
        drawn = [
            replace(
                item,
                completion_ids=(token,),
                log_probs=(log_prob,),
                finish_reason="stop" if token in self.end_ids else "length",
            )
            for item, token, log_prob in zip(items, tokens, log_probs, strict=True)
        ]
        self.num_cut += sum(item.finish_reason == "length" for item in drawn)
        if self.read_answer:
            self.num_read += sum(self.read_answer(item) is not None for item in drawn)
        return drawn

    def figures(self, summed: Callable[[Sequence[float]], list[float]], count: float) -> dict[str, float]:
        """What a step of `count` completions reports. `summed` adds up over processes."""
        num_cut, num_read = summed([self.num_cut, self.num_read])
        parsed = {"parse_rate": num_read / count} if self.read_answer else {}
        return {"truncated_fraction": num_cut / count, **parsed}
