"""From hidden states to logits: the unembedding, and what some families do after it.

Shared by the neurons (rows of the unembedding) and by training (logits of a few tokens at a time, so that the full
batch x seq x vocab tensor never exists).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuron_opsd.errors import ModelError
from neuron_opsd.model.load import CausalLM


def unembedding_weight(model: CausalLM) -> Float[Tensor, "vocab hidden"]:
    """The matrix whose row y is e[y]; tied or untied, it is what the model's head multiplies with."""
    return _head(model).weight


def _head(model: CausalLM) -> Any:
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no output embeddings; a causal language model is needed."
        )
    return head


def last_place(device: torch.device | str) -> Tensor:
    """For a model's `logits_to_keep`: the last place alone, as an index.

    The number 1 makes a strided view. torch multiplies that in half precision on a CPU with a transposed copy of the
    whole unembedding for each row: 16 s for four rows of a 1.5B model, and .09 s with rows that lie together.
    """
    return torch.tensor([-1], device=device)


def head_tensors(model: CausalLM) -> list[Tensor]:
    """What `logits_from_hidden` multiplies with and adds: the head's own weights, or an adapter's around it."""
    return list(_head(model).parameters())


def final_norm_weight(model: CausalLM) -> Float[Tensor, " hidden"]:
    """The scale of the last normalisation before the head (Gemma stores it minus one)."""
    hidden = unembedding_weight(model).shape[1]
    norms = [
        module
        for name, module in backbone(model).get_decoder().named_children()  # pyright: ignore[reportCallIssue]
        if "norm" in name.lower() or name == "ln_f" or name.endswith("layer_norm")
    ]
    weights = [norm.weight for norm in norms if getattr(norm, "weight", None) is not None]
    weights = [weight for weight in weights if weight.shape == (hidden,)]
    if not weights:
        raise ModelError(
            f"{type(model).__name__} has no final norm weight; use neurons.final_norm_scale=false."
        )
    is_offset = type(norms[-1]).__name__.startswith("Gemma")
    return weights[-1] + 1 if is_offset else weights[-1]


def backbone(model: CausalLM) -> nn.Module:
    """The model without its head: what gives `last_hidden_state`. Sees through PEFT."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    return inner.base_model  # pyright: ignore[reportReturnType]


def logits_from_hidden(
    model: CausalLM, hidden: Float[Tensor, "*batch hidden"], *, weight: Tensor | None = None
) -> Float[Tensor, "*batch vocab"]:
    """Logits in float32, with the family's scaling (Cohere, Granite) and soft cap (Gemma) applied.

    Args:
        model: Gives the head and the family's settings.
        hidden: Last hidden states.
        weight: Another unembedding matrix than the model's (the teacher's, where the head is trained).
    """
    head = _head(model)
    if weight is None and not (isinstance(head, nn.Linear) and head.weight.is_floating_point()):
        logits = head(hidden).float()  # an adapter or a quantised matrix multiplies in its own way
    else:
        # Not head(hidden): a sharded head counts its calls, and expects one for each pass of the model.
        matrix: Tensor = head.weight if weight is None else weight
        logits = nn.functional.linear(hidden, matrix, getattr(head, "bias", None)).float()
    config = model.config.get_text_config()
    if getattr(config, "logit_scale", None):
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits
