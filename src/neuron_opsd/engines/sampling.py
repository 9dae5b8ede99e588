"""One token from logits and a random number: inverse transform sampling, with temperature, top-k and top-p."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuron_opsd.engines.base import Sampling


def draw_uniforms(seed: int, num_steps: int) -> Float[Tensor, " steps"]:
    """One uniform number in [0, 1) for each token a completion may get. Prefixes agree whatever the limit is."""
    return torch.rand(num_steps, generator=torch.Generator().manual_seed(seed))


def sample_tokens(
    logits: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"], sampling: Sampling
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """One token a row by inverse transform sampling, and its log-probability at temperature 1 without top-p.

    Softmax in float32, cumulative sums in float64: over 150,000 tokens float32 sums would bias the tail.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        chosen = logits.argmax(dim=-1)
    else:
        cumulative = _weights(logits, sampling).double().cumsum(dim=-1)
        target = uniforms.double()[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    log_probs = logits.gather(1, chosen[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
    return chosen, log_probs


def token_probs(logits: Float[Tensor, "rows vocab"], sampling: Sampling) -> Float[Tensor, "rows vocab"]:
    """With what probability `sample_tokens` draws each token."""
    logits = logits.float()
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter(1, logits.argmax(dim=-1, keepdim=True), 1.0)
    weights = _weights(logits, sampling)
    return weights / weights.sum(dim=-1, keepdim=True)


def _weights(logits: Float[Tensor, "rows vocab"], sampling: Sampling) -> Float[Tensor, "rows vocab"]:
    """Proportional to the probabilities of drawing."""
    kept = logits if sampling.top_k is None else _keep_likeliest(logits, sampling.top_k)
    probs = torch.softmax(kept / sampling.temperature, dim=-1)
    return probs if sampling.top_p == 1 else _keep_nucleus(probs, sampling.top_p)


def _keep_likeliest(logits: Float[Tensor, "rows vocab"], k: int) -> Float[Tensor, "rows vocab"]:
    """Minus infinity for all but the k likeliest tokens. Of equal ones the first are kept, as in `_keep_nucleus`."""
    outside = logits.argsort(dim=-1, descending=True, stable=True)[:, k:]
    return logits.scatter(1, outside, -torch.inf)


def _keep_nucleus(probs: Float[Tensor, "rows vocab"], top_p: float) -> Float[Tensor, "rows vocab"]:
    """Zero all but the smallest set of most likely tokens whose mass reaches top_p."""
    ordered, indices = probs.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return torch.zeros_like(probs).scatter(1, indices, ordered.masked_fill(outside, 0.0))
