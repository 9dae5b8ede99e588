"""The loss of each completion token as `training.*` asks for it, and its sum over many tokens in little memory.

    student and teacher logits -> log-probabilities (loss_temperature) -> support (full, or top-k with a tail bucket)
    -> divergence (pointwise clip), or unlikelihood where a token is pushed down
    -> times the capped importance ratio, where the rollout is stale

Each arrow is a pure function. `token_loss` puts the chosen ones together once, before training.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuron_opsd.config import TrainingSettings
from neuron_opsd.model.divergence import (
    Divergence,
    divergence_named,
    entropy,
    on_top_k,
    sampled_token_loss,
    unlikelihood,
)

# What `sum_in_chunks` measures beside the loss: sums over tokens, in this order.
MEASURED = ("divergence", "student_entropy", "teacher_entropy", "captured_mass_fraction", "importance_ratio")


class TokenValues(NamedTuple):
    """One value a token: the loss, and without gradient the divergence and the teacher's mass in the support."""

    loss: Tensor
    divergence: Tensor
    captured: Tensor


TokenLoss = Callable[[Tensor, Tensor, Tensor], TokenValues]  # student, teacher log-probabilities, token ids


def token_loss(settings: TrainingSettings) -> TokenLoss:
    """The loss that `training.*` describes."""
    if settings.divergence == "sampled_token":
        loss = _sampled
    else:
        clip = math.inf if settings.pointwise_clip is None else settings.pointwise_clip
        divergence = divergence_named(settings.divergence, jsd_beta=settings.jsd_beta, clip=clip)
        if settings.support == "full":
            loss = _on_full_vocabulary(divergence)
        else:
            loss = _on_top_k(divergence, settings.top_k, by_teacher=settings.support == "teacher_top_k")
    return loss if settings.loss_temperature == 1 else _tempered(loss, settings.loss_temperature)


def _sampled(student: Tensor, teacher: Tensor, tokens: Tensor) -> TokenValues:
    loss, divergence = sampled_token_loss(student, teacher, tokens)
    captured = teacher.gather(1, tokens[:, None])[:, 0].exp()
    return TokenValues(loss, divergence, captured)


def _on_full_vocabulary(divergence: Divergence) -> TokenLoss:
    def loss(student: Tensor, teacher: Tensor, tokens: Tensor) -> TokenValues:
        values = divergence(student, teacher)
        return TokenValues(values, values.detach(), torch.ones_like(values))

    return loss


def _on_top_k(divergence: Divergence, k: int, *, by_teacher: bool) -> TokenLoss:
    def loss(student: Tensor, teacher: Tensor, tokens: Tensor) -> TokenValues:
        student, teacher = on_top_k(student, teacher, k=k, by_teacher=by_teacher)
        values = divergence(student, teacher)
        captured = teacher[:, :k].exp().sum(dim=-1)
        return TokenValues(values, values.detach(), captured)

    return loss


def _tempered(loss: TokenLoss, temperature: float) -> TokenLoss:
    def scaled(log_probs: Tensor) -> Tensor:
        return torch.log_softmax(log_probs / temperature, dim=-1)

    return lambda student, teacher, tokens: loss(scaled(student), scaled(teacher), tokens)


def importance_ratio(
    student: Float[Tensor, "tokens vocab"],
    tokens: Int[Tensor, " tokens"],
    sampled_log_probs: Float[Tensor, " tokens"],
    *,
    cap: float,
) -> Float[Tensor, " tokens"]:
    """min(p_now / p_sampled, cap) of each sampled token, without gradient: 1 for a fresh rollout."""
    now = student.detach().gather(1, tokens[:, None])[:, 0]
    return (now - sampled_log_probs).exp().clamp(max=cap)


def sum_in_chunks(
    student_hidden: Float[Tensor, "tokens hidden"],
    teacher_hidden: Float[Tensor, "tokens *states hidden"],
    *,
    student_logits: Callable[[Tensor], Tensor],
    teacher_logits: Callable[..., Tensor],
    loss: TokenLoss,
    tokens: Int[Tensor, " tokens"],
    chunk_tokens: int,
    weights: Float[Tensor, " tokens"] | None = None,
    pushed_down: Bool[Tensor, " tokens"] | None = None,
    unlikelihood_weight: float = 1.0,
    sampled_log_probs: Float[Tensor, " tokens"] | None = None,
    max_importance_ratio: float = 1.0,
    head: Sequence[Tensor] = (),
    teacher_rows: Sequence[Tensor] = (),
) -> tuple[Float[Tensor, ""], Float[Tensor, "5"]]:
    """Sum of the loss over tokens, holding the vocabulary logits of `chunk_tokens` tokens at a time.

    Each chunk's gradient is taken at once, while its logits are there, and waits as the gradient of the hidden states
    (and of the head, where that is trained): memory does not grow with the number of tokens times the vocabulary, and
    nothing is computed twice.

    Args:
        student_hidden: The states that predict each token.
        teacher_hidden: The same under the teacher, or several for each token, if `teacher_logits` says what to do.
        student_logits: The student's head.
        teacher_logits: The teacher's head. It takes states, and what `teacher_rows` has for the same tokens.
        loss: From `token_loss`.
        tokens: The sampled token at each place.
        chunk_tokens: Changes memory, not the result.
        weights: Of each token's loss, 1 where there are none.
        pushed_down: Tokens that are made less likely, whatever the teacher says. None: no token is.
        unlikelihood_weight: Of their loss.
        sampled_log_probs: The sampler's log-probabilities of `tokens`, where the rollouts are stale.
        max_importance_ratio: Cap of the correction for stale rollouts.
        head: The tensors inside `student_logits`. Those that require a gradient get one.
        teacher_rows: What else the teacher's head needs of each token.

    Returns:
        The sum, and without gradient the sums of MEASURED.
    """

    def one_chunk(
        student: Tensor, ids: Tensor, weight: Tensor, pushed: Tensor, sampled: Tensor, *teacher: Tensor
    ):
        # float32, or the wider type of the logits where they have one
        student_log_probs = torch.log_softmax(student_logits(student), dim=-1)
        with torch.no_grad():
            teacher_log_probs = torch.log_softmax(teacher_logits(*teacher), dim=-1)
        values = loss(student_log_probs, teacher_log_probs, ids)
        ratio = torch.ones_like(values.divergence)
        if sampled_log_probs is not None:
            ratio = importance_ratio(student_log_probs, ids, sampled, cap=max_importance_ratio)
        with torch.no_grad():
            entropies = (entropy(student_log_probs), entropy(teacher_log_probs))
            measured = (values.divergence, *entropies, values.captured, ratio)
        losses = values.loss
        if pushed_down is not None:
            losses = losses.where(~pushed, unlikelihood_weight * unlikelihood(student_log_probs, ids))
        return (losses * ratio * weight).sum(), torch.stack([value.sum() for value in measured]).detach()

    ones = torch.ones_like(tokens, dtype=torch.float32)
    rows = [student_hidden, tokens, ones if weights is None else weights]
    rows += [torch.zeros_like(tokens, dtype=torch.bool) if pushed_down is None else pushed_down]
    rows += [ones if sampled_log_probs is None else sampled_log_probs, teacher_hidden, *teacher_rows]
    trained = [tensor for tensor in (student_hidden, *head) if tensor.requires_grad]
    if trained and torch.is_grad_enabled():
        return _sum_with_gradients(one_chunk, rows, trained, chunk_tokens)
    parts = [one_chunk(*chunk) for chunk in zip(*(row.split(chunk_tokens) for row in rows), strict=True)]
    totals, measured = zip(*parts, strict=True)
    return torch.stack(totals).sum(), torch.stack(measured).sum(dim=0)


def _sum_with_gradients(
    one_chunk: Callable[..., tuple[Tensor, Tensor]],
    rows: Sequence[Tensor],
    trained: Sequence[Tensor],
    chunk_tokens: int,
) -> tuple[Tensor, Tensor]:
    """The sums over chunks, with each chunk's gradient taken at once. The first of `rows` are the student's states."""
    student_hidden, *others = rows
    gradients = [torch.zeros_like(tensor) for tensor in trained]
    totals, sums = [], []
    for start in range(0, len(student_hidden), chunk_tokens):
        places = slice(start, start + chunk_tokens)
        leaf = student_hidden[places].detach().requires_grad_(student_hidden.requires_grad)
        total, measured = one_chunk(leaf, *(row[places] for row in others))
        inputs = [leaf if tensor is student_hidden else tensor for tensor in trained]
        for tensor, whole, part in zip(trained, gradients, torch.autograd.grad(total, inputs), strict=True):
            (whole[places] if tensor is student_hidden else whole).add_(part)
        totals.append(total.detach())
        sums.append(measured)
    total = _WithGradients.apply(torch.stack(totals).sum(), gradients, *trained)
    return total, torch.stack(sums).sum(dim=0)


class _WithGradients(torch.autograd.Function):
    """A total whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(gradient.mul_(outer[0]) for gradient in gradients)
