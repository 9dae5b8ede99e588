"""Rewards without labels, as TRL's GRPOTrainer calls them: agreement with the group's majority, and self-certainty."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor

from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.unembedding import logits_from_hidden
from neuron_opsd.text.answers import Vote
from neuron_opsd.training.rivals.votes import Answer, agreements, votes_of_whole_groups

ReadAnswer = Callable[[int, Sequence[int]], Answer]  # (group, completion ids)
Relabel = Callable[[dict[int, Vote]], dict[int, Vote]]


class Reward:
    """One step's rewards, and its figures for metrics.jsonl. TRL hands over this process's completions."""

    def __init__(
        self,
        read_answer: ReadAnswer,
        *,
        num_rollouts: int,
        on_row: Callable[[dict[str, Any]], None],
        relabel: Relabel = lambda votes: votes,
        end_ids: Collection[int] | None = None,
    ) -> None:
        self.read_answer, self.num_rollouts, self.on_row, self.relabel = (
            read_answer,
            num_rollouts,
            on_row,
            relabel,
        )
        self.end_ids = (
            end_ids  # where given, a completion that ends in none of them was cut, and carries no loss
        )
        self.__name__ = type(self).__name__  # TRL names its figures by it

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        group: Sequence[int],
        prompt_ids: Sequence[Sequence[int]],
        trainer_state: Any,
        **kwargs: Any,
    ) -> list[float]:
        """A reward for each completion. `group` and `prompt_ids` are columns of the data set."""
        own = [(g, self.read_answer(g, ids)) for g, ids in zip(group, completion_ids, strict=True)]
        everyone = cast(list[tuple[int, Answer]], gather_object(own))
        votes = votes_of_whole_groups(everyone, self.num_rollouts)
        rewards = self.values(own, self.relabel(votes), prompt_ids, completion_ids)
        lengths = gather_object([len(ids) for ids in completion_ids])
        total = sum(gather_object(rewards))
        num_loss_tokens = sum(gather_object([len(ids) for ids in completion_ids if self._carries_loss(ids)]))
        self.on_row(
            {
                "step": trainer_state.global_step + 1,
                "num_completion_tokens": sum(lengths),
                "num_loss_tokens": num_loss_tokens,
                "completion_tokens_mean": sum(lengths) / len(lengths),
                "parse_rate": sum(answer is not None for _, answer in everyone) / len(everyone),
                "vote_share": sum(vote.share for vote in votes.values()) / len(votes),
                "reward": total / len(lengths),
            }
        )
        return rewards

    def _carries_loss(self, ids: Sequence[int]) -> bool:
        return self.end_ids is None or (len(ids) > 0 and ids[-1] in self.end_ids)

    def values(
        self,
        own: Sequence[tuple[int, Answer]],
        votes: dict[int, Vote],
        prompt_ids: Sequence[Sequence[int]],
        completion_ids: Sequence[Sequence[int]],
    ) -> list[float]:
        """The reward itself."""
        raise NotImplementedError


class MajorityReward(Reward):
    """1 for the group's majority answer, else 0 (TTRL, 2504.16084)."""

    def values(self, own, votes, prompt_ids, completion_ids):
        """See `Reward`."""
        return agreements(own, votes)


class SelfCertaintyReward(Reward):
    """Mean over the tokens of KL(uniform || p) under the current model (Intuitor, 2505.19590)."""

    def __init__(
        self, *args: Any, model: CausalLM, chunk_tokens: int, micro_batch_size: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model, self.chunk_tokens, self.micro_batch_size = model, chunk_tokens, micro_batch_size

    def values(self, own, votes, prompt_ids, completion_ids):
        """See `Reward`."""
        was_training = self.model.training
        self.model.eval()
        size, found = self.micro_batch_size, []
        for start in range(0, len(completion_ids), size):
            part = slice(start, start + size)
            found += self_certainty(
                self.model, prompt_ids[part], completion_ids[part], chunk_tokens=self.chunk_tokens
            )
        self.model.train(was_training)
        return found


@torch.no_grad()
def self_certainty(
    model: CausalLM,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    chunk_tokens: int,
) -> list[float]:
    """For each completion the mean over its tokens of KL(uniform || p) = -log V - mean_v log p_v, in nats."""
    batch = pad_right(prompt_ids, completion_ids, device=model.device)
    hidden = predicting_states(model, model, *batch)
    parts = [_kl_from_uniform(logits_from_hidden(model, chunk)) for chunk in hidden.split(chunk_tokens)]
    values = torch.cat(parts).split([len(ids) for ids in completion_ids])
    return [float(value.mean()) for value in values]


def _kl_from_uniform(logits: Tensor) -> Tensor:
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    return -math.log(log_probs.shape[-1]) - log_probs.mean(dim=-1)
