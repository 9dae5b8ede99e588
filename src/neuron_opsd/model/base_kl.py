"""KL(trained || base) on given completions, exact over the vocabulary, with one model in memory at a time.

The base model leaves behind the hidden states that predict the completion's tokens, and its head: both small beside
its logits. The trained model then turns its own states and the kept ones into logits, chunk by chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.divergence import forward_kl
from neuron_opsd.model.finite import all_finite, not_finite
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.unembedding import logits_from_hidden, unembedding_weight

CHUNK_TOKENS = 256  # whose vocabulary logits are held at once
Texts = Sequence[tuple[Sequence[int], Sequence[int]]]  # prompt ids, completion ids


@dataclass(frozen=True, slots=True)
class BaseStates:
    """What is kept of the base model, on the CPU."""

    states: list[Float[Tensor, "_ hidden"]]  # for each text, one state a completion token (as many as it has)
    head: Float[Tensor, "vocab hidden"]


@torch.inference_mode()
def keep_base_states(model: CausalLM, texts: Texts) -> BaseStates:
    """The base model's part."""
    head = unembedding_weight(model).detach().cpu().clone()
    return BaseStates([_states(model, *text).cpu() for text in texts], head)


@torch.inference_mode()
def kl_from_base(model: CausalLM, texts: Texts, base: BaseStates) -> list[float]:
    """For each text KL(trained || base) summed over its completion tokens, in nats; `model` is the trained one."""
    head = base.head.to(model.device)
    sums = []
    for text, kept in zip(texts, base.states, strict=True):
        total = 0.0
        own = _states(model, *text)
        for start in range(0, len(own), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            trained = logits_from_hidden(model, own[part]).log_softmax(dim=-1)
            before = logits_from_hidden(model, kept[part].to(model.device), weight=head).log_softmax(dim=-1)
            total += forward_kl(before, trained).double().sum().item()  # KL(second || first)
        if not all_finite([total]):
            raise not_finite(
                model, [[*text[0], *text[1]]], what="The logits of the base or the trained model"
            )
        sums.append(total)
    return sums


def _states(model: CausalLM, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    return predicting_states(model, model, *pad_right([prompt], [completion], device=model.device))
