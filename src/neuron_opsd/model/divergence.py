"""How far the student's next-token distributions are from the teacher's: pure functions of log-probabilities.

    forward KL  KL(teacher || student) = sum_v p_T (log p_T - log p_S)
    reverse KL  KL(student || teacher) = sum_v p_S (log p_S - log p_T)          the paper's
    JSD(beta)   beta KL(teacher || m) + (1 - beta) KL(student || m),  m = beta p_T + (1 - beta) p_S
                and by definition JSD(0) = forward KL, JSD(1) = reverse KL
    sampled     log p_S(y) - log p_T(y) of the sampled token y alone: an unbiased estimate of the reverse KL

Each gives one value a token, in nats. The first three over whatever support both arguments share. Gradients flow into
the student's side alone, because the teacher's log-probabilities are computed without gradient.
"""

# torch leaves some of its functions without types.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

LogProbs = Float[Tensor, "tokens vocab"]
PerToken = Float[Tensor, " tokens"]
Divergence = Callable[[LogProbs, LogProbs], PerToken]


def forward_kl(
    student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"], *, clip: float = math.inf
) -> PerToken:
    """KL(teacher || student) of each token. `clip` bounds each vocabulary entry's term from above."""
    return _sum_clipped(teacher.exp() * (teacher - student), clip)


def reverse_kl(
    student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"], *, clip: float = math.inf
) -> PerToken:
    """KL(student || teacher) of each token. `clip` bounds each vocabulary entry's term from above."""
    if clip == math.inf:
        return cast("Tensor", _ReverseKl.apply(student, teacher))
    return _sum_clipped(student.exp() * (student - teacher), clip)


class _ReverseKl(torch.autograd.Function):
    """The default loss, with its gradient p (log p - log q + 1) written out: half the passes over the vocabulary."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        probs, log_ratio = student.exp(), student - teacher
        ctx.save_for_backward(probs, log_ratio)
        return _dot(probs, log_ratio)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        probs, log_ratio = ctx.saved_tensors
        return torch.addcmul(probs, probs, log_ratio).mul_(outer[0][:, None]), None


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return cast("Tensor", torch.linalg.vecdot(first, second))


def jensen_shannon(
    student: Float[Tensor, "tokens vocab"],
    teacher: Float[Tensor, "tokens vocab"],
    *,
    beta: float,
    clip: float = math.inf,
) -> PerToken:
    """JSD(beta) of each token. `beta` is the teacher's weight in the mixture."""
    if beta in (0.0, 1.0):
        return (forward_kl if beta == 0.0 else reverse_kl)(student, teacher, clip=clip)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    from_teacher = teacher.exp() * (teacher - mixture)
    from_student = student.exp() * (student - mixture)
    return _sum_clipped(beta * from_teacher + (1 - beta) * from_student, clip)


def _sum_clipped(terms: Float[Tensor, "tokens vocab"], clip: float) -> PerToken:
    return (terms if clip == math.inf else terms.clamp(max=clip)).sum(dim=-1)


def sampled_token_loss(
    student: Float[Tensor, "tokens vocab"],
    teacher: Float[Tensor, "tokens vocab"],
    tokens: Int[Tensor, " tokens"],
) -> tuple[PerToken, PerToken]:
    """The policy-gradient loss of the reverse KL on the sampled tokens alone, and the estimate of the divergence.

    (log p_S - log p_T).detach() * log p_S: the gradient of the log ratio itself has zero expectation.
    """
    own, others = (values.gather(1, tokens[:, None])[:, 0] for values in (student, teacher))
    log_ratio = (own - others).detach()
    return log_ratio * own, log_ratio


def unlikelihood(student: Float[Tensor, "tokens vocab"], tokens: Int[Tensor, " tokens"]) -> PerToken:
    """-log(1 - p_S(y)) of the sampled tokens y: small where y is unlikely already (1908.04319).

    Its gradient by the token's logit is p_S(y), so that no token is pushed harder than it is believed.
    """
    return -_with_tail(student, tokens[:, None])[:, 1]


def on_top_k(
    student: Float[Tensor, "tokens vocab"],
    teacher: Float[Tensor, "tokens vocab"],
    *,
    k: int,
    by_teacher: bool,
) -> tuple[Float[Tensor, "tokens support"], Float[Tensor, "tokens support"]]:
    """Both distributions on the k likeliest entries of one of them, and one bucket with the rest of the mass.

    Without the bucket, what remains would be no distribution and its divergence no divergence (verl #7856, #5041). With
    k = vocabulary there is no rest and no bucket: the arguments come back in another order.
    """
    if k >= student.shape[-1]:
        return student, teacher
    chosen = (teacher if by_teacher else student.detach()).topk(k, dim=-1).indices
    return _with_tail(student, chosen), _with_tail(teacher, chosen)


def _with_tail(log_probs: Tensor, chosen: Tensor) -> Tensor:
    """The tail is summed, not taken as 1 - the rest, which would be rounding noise where it is small."""
    tail = log_probs.scatter(-1, chosen, -math.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, chosen), tail], dim=-1)


def entropy(log_probs: Float[Tensor, "tokens vocab"]) -> PerToken:
    """Entropy of each token's distribution, in nats."""
    return -_dot(log_probs.exp(), log_probs)


def divergence_named(name: str, *, jsd_beta: float, clip: float = math.inf) -> Divergence:
    """The function for `training.divergence`, where that is a divergence of whole distributions."""
    if name == "jsd":
        return lambda student, teacher: jensen_shannon(student, teacher, beta=jsd_beta, clip=clip)
    function = {"forward_kl": forward_kl, "reverse_kl": reverse_kl}[name]
    return lambda student, teacher: function(student, teacher, clip=clip)
