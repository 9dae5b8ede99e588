"""From hidden states to logits: the unembedding, and what some families do after it.

Shared by the neurons (rows of the unembedding) and by training (logits of a few tokens at a time, so that the full
batch x seq x vocab tensor never exists).
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuron_opsd.errors import ModelError
from neuron_opsd.model.load import CausalLM

ROWS_AT_ONCE = 8192  # of the unembedding, in float32


class Head(NamedTuple):
    """What makes logits of states: a matrix, and what is added."""

    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None


def head_of(model: CausalLM) -> Head:
    """The model's own, without an adapter's part."""
    head = _head(model)
    return Head(head.weight, getattr(head, "bias", None))


def unembedding_weight(model: CausalLM) -> Float[Tensor, "vocab hidden"]:
    """The matrix whose row y is e[y]. Tied or untied, it is what the model's head multiplies with."""
    return _head(model).weight


def _head(model: CausalLM) -> Any:
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no output embeddings. A causal language model is needed."
        )
    return head


def last_place(device: torch.device | str) -> Tensor:
    """For a model's `logits_to_keep`: the last place alone, as an index.

    The number 1 makes a strided view. torch multiplies that in half precision on a CPU with a transposed copy of the
    whole unembedding for each row: 16 s for four rows of a 1.5B model, and .09 s with rows that are adjacent.
    """
    return torch.tensor([-1], device=device)


def head_tensors(model: CausalLM) -> list[Tensor]:
    """What `logits_from_hidden` multiplies with and adds: the head's own weights, or an adapter's around it."""
    return list(_head(model).parameters())


def final_norm(model: CausalLM) -> nn.Module:
    """The last normalisation before the head.

    Raises:
        ModelError: it has no weights.
    """
    hidden = unembedding_weight(model).shape[1]
    norms = [
        module
        for name, module in backbone(model).get_decoder().named_children()  # pyright: ignore[reportCallIssue]
        if "norm" in name.lower() or name == "ln_f" or name.endswith("layer_norm")
    ]
    norms = [
        norm for norm in norms if getattr(norm, "weight", None) is not None and norm.weight.shape == (hidden,)
    ]
    if not norms:
        raise ModelError(
            f"{type(model).__name__} has no final norm weight. Use neurons.final_norm_scale=false, and "
            "training.student_entropy=own."
        )
    return norms[-1]


def final_norm_weight(model: CausalLM) -> Float[Tensor, " hidden"]:
    """The scale of the last normalisation before the head (some families store it minus one)."""
    norm = final_norm(model)
    return norm.weight + _offset(norm)  # pyright: ignore[reportOperatorIssue, reportReturnType]


@torch.no_grad()
def _offset(norm: nn.Module) -> int:
    """What a normalisation adds to its stored weight: 0 or 1.

    The module is asked, for its name does not tell: Gemma 3's and Nemotron's add 1, Gemma 4's adds nothing.

    Raises:
        ModelError: it does neither.
    """
    weight: Tensor = norm.weight  # pyright: ignore[reportAssignmentType]
    signs = torch.ones_like(weight)
    signs[1::2] = -1  # of mean 0 and variance 1, so that either kind of norm scales it and does nothing else
    plus, minus = norm(torch.stack([signs, -signs])[None])[0]
    scale = signs * (plus - minus) / 2  # without the norm's bias
    added = float((scale.float() - weight.float()).mean())  # the mean, because half precision rounds each
    if abs(added - round(added)) > 0.25 or round(added) not in (0, 1):
        raise ModelError(
            f"{type(norm).__name__} scales by neither its weight nor its weight plus 1. Use "
            "neurons.final_norm_scale=false, and training.student_entropy=own."
        )
    return round(added)


def check_logits_divide(model: CausalLM) -> None:
    """Refuse a model whose weights cannot take a temperature in.

    Raises:
        ModelError: its logits have a soft cap, or its last normalisation has no weights.
    """
    if getattr(model.config.get_text_config(), "final_logit_softcapping", None):
        raise ModelError(
            f"{type(model).__name__} caps its logits, so that no weight takes a temperature in. Use "
            "training.student_entropy=own."
        )
    final_norm(model)


@torch.no_grad()
def divide_logits(model: CausalLM, temperature: float) -> None:
    """Change the model in place, so that its logits are what they were, divided by the temperature.

    Raises:
        ModelError: see `check_logits_divide`.
    """
    check_logits_divide(model)
    norm, head = final_norm(model), _head(model)
    weight: Tensor = norm.weight  # pyright: ignore[reportAssignmentType]
    weight.copy_((weight + _offset(norm)) / temperature - _offset(norm))
    for bias in (getattr(norm, "bias", None), getattr(head, "bias", None)):
        if bias is not None:
            bias.div_(temperature)


def backbone(model: CausalLM) -> nn.Module:
    """The model without its head: what gives `last_hidden_state`. Sees through PEFT."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    return inner.base_model  # pyright: ignore[reportReturnType]


def logits_from_hidden(
    model: CausalLM, hidden: Float[Tensor, "*batch hidden"], *, other: Head | None = None
) -> Float[Tensor, "*batch vocab"]:
    """Logits in float32, never rounded to a narrower type, with the family's scaling and soft cap applied.

    Args:
        model: Gives the head and the family's settings (Cohere and Granite scale, Gemma caps).
        hidden: Last hidden states.
        other: Another head than the model's (the teacher's, where the head is trained).
    """
    head = _head(model)
    if other is None and not (isinstance(head, nn.Linear) and head.weight.is_floating_point()):
        logits = head(hidden).float()  # an adapter or a quantised matrix multiplies in its own way
    else:
        # Not head(hidden): a sharded head counts its calls, and expects one for each pass of the model.
        weight, bias = other or head_of(model)
        logits = _wide_product(hidden, weight)
        logits = logits if bias is None else logits + bias.to(logits.dtype)
    config = model.config.get_text_config()
    if getattr(config, "logit_scale", None):
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def _wide_product(hidden: Tensor, matrix: Tensor) -> Tensor:
    """`hidden @ matrix.T` in float32 (or wider, where a factor is), whatever the factors are held in.

    A product in bfloat16 rounds each logit to 8 bits: errors of .01 nats, where thresholds are of .005.
    """
    hidden = hidden.to(
        matrix.device
    )  # a model on several GPUs may have its head on another one than its last layer
    kind = hidden.device.type
    is_cast = kind != "meta" and torch.is_autocast_enabled(kind)
    factor = torch.get_autocast_dtype(kind) if is_cast else torch.promote_types(hidden.dtype, matrix.dtype)
    with torch.autocast(kind, enabled=False) if is_cast else nullcontext():
        hidden, matrix = hidden.to(factor), matrix.to(factor)
        if factor not in (torch.bfloat16, torch.float16):
            return nn.functional.linear(hidden, matrix)
        return _HalfFactors.apply(hidden.flatten(0, -2), matrix).unflatten(0, hidden.shape[:-1])  # pyright: ignore


class _HalfFactors(torch.autograd.Function):
    """A float32 product of factors in half precision. Its gradients are in the factors' type, as is usual."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, matrix)
        if hidden.is_cuda:
            return torch.mm(hidden, matrix.T, out_dtype=torch.float32)
        # A CPU has no such product. Some rows of the matrix at a time, so that no float32 copy of it is held.
        wide = hidden.float()
        return torch.cat([wide @ rows.float().T for rows in matrix.split(ROWS_AT_ONCE)], dim=1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden, matrix = ctx.saved_tensors
        gradient = outer[0].to(hidden.dtype)
        return (
            gradient @ matrix if ctx.needs_input_grad[0] else None,
            gradient.T @ hidden if ctx.needs_input_grad[1] else None,
        )
