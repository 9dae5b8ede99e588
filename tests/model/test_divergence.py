"""Divergences against numbers worked by hand, float64 autograd and TRL."""

import math
import warnings

import pytest
import torch

from neuron_opsd.model.divergence import (
    divergence_named,
    entropy,
    forward_kl,
    jensen_shannon,
    reverse_kl,
    sum_in_chunks,
)

STUDENT = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
TEACHER = torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
ALL = ["forward_kl", "reverse_kl", "jsd"]


def random_log_probs(seed: int, *, tokens: int = 7, vocab: int = 23) -> torch.Tensor:
    state = torch.Generator().manual_seed(seed)
    return torch.log_softmax(3 * torch.randn(tokens, vocab, generator=state, dtype=torch.float64), dim=-1)


def test_numbers_by_hand():
    # Row 0, forward: 1/4 ln(1/2) + 0 + 1/2 ln 2 = 1/4 ln 2; reverse: 1/2 ln 2 + 0 + 1/4 ln(1/2) = 1/4 ln 2.
    quarter = 0.25 * math.log(2)
    torch.testing.assert_close(forward_kl(STUDENT, TEACHER), torch.tensor([quarter, 0.0]).double())
    torch.testing.assert_close(reverse_kl(STUDENT, TEACHER), torch.tensor([quarter, 0.0]).double())
    # JSD(1/2), m = (3/8, 1/4, 3/8): each half is 1/4 ln(2/3) + 1/2 ln(4/3).
    half = 0.25 * math.log(2 / 3) + 0.5 * math.log(4 / 3)
    torch.testing.assert_close(jensen_shannon(STUDENT, TEACHER, beta=0.5), torch.tensor([half, 0.0]).double())


def test_the_two_kls_differ_and_point_the_right_way():
    student = torch.tensor([[0.9, 0.1]]).log()
    teacher = torch.tensor([[0.5, 0.5]]).log()
    expected_forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    expected_reverse = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert forward_kl(student, teacher).item() == pytest.approx(expected_forward, rel=1e-5)
    assert reverse_kl(student, teacher).item() == pytest.approx(expected_reverse, rel=1e-5)
    assert abs(expected_forward - expected_reverse) > 0.1


def test_jsd_with_unequal_weights_by_hand():
    # beta is the TEACHER's weight: m = 1/4 (0.5, 0.5) + 3/4 (0.9, 0.1) = (0.8, 0.2).
    student, teacher = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    from_teacher = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    from_student = 0.9 * math.log(0.9 / 0.8) + 0.1 * math.log(0.1 / 0.2)
    found = jensen_shannon(student, teacher, beta=0.25).item()
    assert found == pytest.approx(0.25 * from_teacher + 0.75 * from_student, rel=1e-5)


def test_jsd_at_its_ends_is_the_kls_by_definition():
    student, teacher = random_log_probs(0), random_log_probs(1)
    assert torch.equal(jensen_shannon(student, teacher, beta=0.0), forward_kl(student, teacher))
    assert torch.equal(jensen_shannon(student, teacher, beta=1.0), reverse_kl(student, teacher))


def test_entropy_by_hand():
    torch.testing.assert_close(entropy(torch.full((2, 8), 1 / 8).log()), torch.full((2,), math.log(8)))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_trl_agrees_in_value_and_gradient(beta):
    pytest.importorskip("trl", reason="TRL is the oracle, and is not installed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from trl.experimental.sdpo.loss_utils import compute_divergence
    except ImportError as error:
        pytest.skip(f"this TRL has no compute_divergence: {error}")
    logits, teacher = random_log_probs(2).requires_grad_(), random_log_probs(3)
    ours = jensen_shannon(torch.log_softmax(logits, -1), teacher, beta=beta)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    theirs = compute_divergence(torch.log_softmax(logits, -1), teacher, beta)
    (their_gradient,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)  # TRL lerps in float32 steps
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_the_numerical_one(name):
    logits, teacher = (
        random_log_probs(4, tokens=2, vocab=5).requires_grad_(),
        random_log_probs(5, tokens=2, vocab=5),
    )
    divergence = divergence_named(name, jsd_beta=0.3)
    assert torch.autograd.gradcheck(lambda x: divergence(torch.log_softmax(x, -1), teacher), logits)


def test_reverse_kl_gradient_in_closed_form():
    logits, teacher = random_log_probs(6).requires_grad_(), random_log_probs(7)
    student = torch.log_softmax(logits, -1)
    value = reverse_kl(student, teacher)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    expected = student.exp() * (student - teacher - value[:, None])
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", ALL)
def test_equal_distributions_give_zero_loss_and_gradient(name):
    logits = random_log_probs(8).requires_grad_()
    student = torch.log_softmax(logits, -1)
    total = divergence_named(name, jsd_beta=0.5)(student, student.detach()).sum()
    (gradient,) = torch.autograd.grad(total, logits)
    assert total.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_far_apart_float32_distributions_stay_finite(name):
    student = torch.log_softmax(torch.tensor([[200.0, 0.0, -200.0]]), -1).requires_grad_()
    teacher = torch.log_softmax(torch.tensor([[-200.0, 0.0, 200.0]]), -1)
    value = divergence_named(name, jsd_beta=0.5)(student, teacher)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()
    if name == "jsd":
        assert value.item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
@pytest.mark.parametrize("name", ALL)
def test_chunks_change_neither_value_nor_gradient(name, chunk_tokens):
    state = torch.Generator().manual_seed(9)
    draw = lambda *shape: torch.randn(*shape, generator=state, dtype=torch.float64)  # noqa: E731
    hidden, teacher_hidden = draw(7, 4).requires_grad_(), draw(7, 4).requires_grad_()
    weight, teacher_weight = draw(11, 4).requires_grad_(), draw(11, 4).requires_grad_()
    divergence = divergence_named(name, jsd_beta=0.4)
    student_log_probs = torch.log_softmax(hidden @ weight.T, -1)
    teacher_log_probs = torch.log_softmax(teacher_hidden @ teacher_weight.T, -1).detach()
    whole = divergence(student_log_probs, teacher_log_probs).sum()
    expected = torch.autograd.grad(whole, [hidden, weight])

    total, sums = sum_in_chunks(
        hidden,
        teacher_hidden,
        student_logits=lambda h: h @ weight.T,
        teacher_logits=lambda h: h @ teacher_weight.T,
        divergence=divergence,
        chunk_tokens=chunk_tokens,
    )
    total.backward()

    torch.testing.assert_close(total, whole)
    torch.testing.assert_close((hidden.grad, weight.grad), expected)
    assert teacher_hidden.grad is None
    assert teacher_weight.grad is None
    entropies = [entropy(student_log_probs).sum(), entropy(teacher_log_probs).sum()]
    torch.testing.assert_close(sums, torch.stack([whole, *entropies]).detach())
    assert not sums.requires_grad
