"""The same completion ids under two prompts: which hidden states predict which tokens.

A sequence is prompt + completion, padded on the right. The state that predicts completion token t sits one place before
it, so for a prompt of p and a completion of n tokens the states are p-1 ... p+n-2. Student and teacher rows have other
prompts and so other places, yet the gathered states line up token by token.

Padding comes after all that is read, so causal order alone hides it: no mask is made, of which attention would keep a
copy of batch x seq x seq for each layer, and rows of unequal length take the fast kernel of rows of equal length.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.unembedding import backbone, last_place


def pad_right(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    device: torch.device | str = "cpu",
) -> tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """Token ids, and the places whose hidden state predicts a completion token."""
    width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    predicting = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        sequence = [*prompt, *completion]
        ids[row, : len(sequence)] = torch.tensor(sequence)
        predicting[row, len(prompt) - 1 : len(sequence) - 1] = True
    return ids.to(device), predicting.to(device)


def predicting_states(
    model: nn.Module,
    unwrapped: CausalLM,
    ids: Int[Tensor, "batch seq"],
    predicting: Bool[Tensor, "batch seq"],
) -> Float[Tensor, "tokens hidden"]:
    """Last hidden states at the predicting places, row by row. No vocabulary logits are made for the others.

    Args:
        model: What the trainer calls: wrapped (DDP) or not, so that its own hooks run.
        unwrapped: The same without the wrapper. Its backbone's output is what we keep.
        ids: Token ids, padded on the right.
        predicting: From `pad_right`.
    """
    with kept_output(backbone(unwrapped)) as kept:
        model(input_ids=ids, use_cache=False, logits_to_keep=last_place(ids.device))
    return kept[-1][predicting]


@contextmanager
def kept_output(module: nn.Module) -> Iterator[list[Tensor]]:
    """The last hidden states that a backbone gives in each of its passes."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        kept.append(output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0])

    handle = module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
