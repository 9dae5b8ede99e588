"""How far the student's next-token distributions lie from the teacher's: pure functions of log-probabilities.

    forward KL  KL(teacher || student) = sum_v p_T (log p_T - log p_S)
    reverse KL  KL(student || teacher) = sum_v p_S (log p_S - log p_T)          the paper's
    JSD(beta)   beta KL(teacher || m) + (1 - beta) KL(student || m),  m = beta p_T + (1 - beta) p_S
                and by definition JSD(0) = forward KL, JSD(1) = reverse KL

Each gives one value a token, in nats, over the full vocabulary. Gradients flow into the student's side alone, because
the teacher's log-probabilities are computed without gradient.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LogProbs = Float[Tensor, "tokens vocab"]
PerToken = Float[Tensor, " tokens"]
Divergence = Callable[[LogProbs, LogProbs], PerToken]


def forward_kl(student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"]) -> PerToken:
    """KL(teacher || student) of each token."""
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


def reverse_kl(student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"]) -> PerToken:
    """KL(student || teacher) of each token."""
    return (student.exp() * (student - teacher)).sum(dim=-1)


def jensen_shannon(
    student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"], *, beta: float
) -> PerToken:
    """JSD(beta) of each token; `beta` is the teacher's weight in the mixture."""
    if beta in (0.0, 1.0):
        return forward_kl(student, teacher) if beta == 0.0 else reverse_kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * forward_kl(mixture, teacher) + (1 - beta) * forward_kl(mixture, student)


def entropy(log_probs: Float[Tensor, "tokens vocab"]) -> PerToken:
    """Entropy of each token's distribution, in nats."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def divergence_named(name: str, *, jsd_beta: float) -> Divergence:
    """The function for `training.divergence`."""
    if name == "jsd":
        return lambda student, teacher: jensen_shannon(student, teacher, beta=jsd_beta)
    return {"forward_kl": forward_kl, "reverse_kl": reverse_kl}[name]


def sum_in_chunks(
    student_hidden: Float[Tensor, "tokens hidden"],
    teacher_hidden: Float[Tensor, "tokens hidden"],
    *,
    student_logits: Callable[[Tensor], Tensor],
    teacher_logits: Callable[[Tensor], Tensor],
    divergence: Divergence,
    chunk_tokens: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, "3"]]:
    """Sum of the divergence over tokens, holding the vocabulary logits of `chunk_tokens` tokens at a time.

    Logits are recomputed in the backward pass, so memory does not grow with the number of tokens times the vocabulary.

    Returns:
        The sum, and without gradient the sums of divergence, student entropy and teacher entropy.
    """

    def one_chunk(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        student_log_probs = torch.log_softmax(student_logits(student), dim=-1)
        with torch.no_grad():
            teacher_log_probs = torch.log_softmax(teacher_logits(teacher), dim=-1)
        total = divergence(student_log_probs, teacher_log_probs).sum()
        with torch.no_grad():
            sums = [total, entropy(student_log_probs).sum(), entropy(teacher_log_probs).sum()]
        return total, torch.stack(sums).detach()

    parts = [
        checkpoint(one_chunk, student, teacher, use_reentrant=False)
        for student, teacher in zip(
            student_hidden.split(chunk_tokens), teacher_hidden.split(chunk_tokens), strict=True
        )
    ]
    return torch.stack([part[0] for part in parts]).sum(), torch.stack([part[1] for part in parts]).sum(dim=0)  # pyright: ignore[reportOptionalSubscript]
