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
    on_top_k,
    reverse_kl,
    sampled_token_loss,
    unlikelihood,
)

STUDENT = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
TEACHER = torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
ALL = ["forward_kl", "reverse_kl", "jsd"]


def random_log_probs(seed: int, *, tokens: int = 7, vocab: int = 23) -> torch.Tensor:
    state = torch.Generator().manual_seed(seed)
    return torch.log_softmax(3 * torch.randn(tokens, vocab, generator=state, dtype=torch.float64), dim=-1)


def trl_losses():
    """TRL's pure loss functions: the oracle."""
    pytest.importorskip("trl", reason="TRL is the oracle, and is not installed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from trl.experimental.sdpo import loss_utils
    except ImportError as error:
        pytest.skip(f"this TRL has no such losses: {error}")
    return loss_utils


def test_numbers_by_hand():
    # Row 0, forward: 1/4 ln(1/2) + 0 + 1/2 ln 2 = 1/4 ln 2; reverse: 1/2 ln 2 + 0 + 1/4 ln(1/2) = 1/4 ln 2.
    quarter = 0.25 * math.log(2)
    torch.testing.assert_close(forward_kl(STUDENT, TEACHER), torch.tensor([quarter, 0.0]).double())
    torch.testing.assert_close(reverse_kl(STUDENT, TEACHER), torch.tensor([quarter, 0.0]).double())
    # JSD(1/2), m = (3/8, 1/4, 3/8): each half is 1/4 ln(2/3) + 1/2 ln(4/3).
    half = 0.25 * math.log(2 / 3) + 0.5 * math.log(4 / 3)
    torch.testing.assert_close(jensen_shannon(STUDENT, TEACHER, beta=0.5), torch.tensor([half, 0.0]).double())


def test_unlikelihood_pushes_a_token_as_hard_as_it_is_believed():
    """-log(1 - p), whose gradient by the token's logit is p: also of a token that the student is sure of."""
    for p in (0.01, 0.5, 1 - 1e-9):
        logits = torch.tensor([[math.log(p), math.log((1 - p) / 2), math.log((1 - p) / 2)]]).double()
        value = unlikelihood(torch.log_softmax(logits.requires_grad_(), -1), torch.tensor([0]))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.item() == pytest.approx(-math.log(1 - p), rel=1e-6)
        assert gradient[0].tolist() == pytest.approx([p, -p / 2, -p / 2], rel=1e-6)
    sure = torch.log_softmax(torch.tensor([[200.0, 0.0, 0.0]]), -1).requires_grad_()  # 1 - p is 0 in float32
    unlikelihood(sure, torch.tensor([0])).sum().backward()
    assert sure.grad.isfinite().all()


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
    compute_divergence = trl_losses().compute_divergence
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


def test_sampled_token_by_hand():
    # Row 0, token 0: log ratio ln(1/2 / 1/4) = ln 2, loss ln 2 * ln 1/2. Row 1: equal, so zero.
    loss, ratio = sampled_token_loss(STUDENT, TEACHER, torch.tensor([0, 2]))
    torch.testing.assert_close(ratio, torch.tensor([math.log(2), 0.0]).double())
    torch.testing.assert_close(loss, torch.tensor([-(math.log(2) ** 2), 0.0]).double())


def test_sampled_token_estimates_reverse_kl_without_bias():
    """Weighted by the student's probabilities, value and gradient over all tokens are those of the full reverse KL."""
    logits, teacher = random_log_probs(10, tokens=1).requires_grad_(), random_log_probs(11, tokens=1)
    probs = torch.softmax(logits, -1).detach()[0]
    value, gradient = 0.0, torch.zeros_like(logits)
    for token in range(logits.shape[1]):
        loss, ratio = sampled_token_loss(torch.log_softmax(logits, -1), teacher, torch.tensor([token]))
        value += probs[token] * ratio
        gradient += probs[token] * torch.autograd.grad(loss.sum(), logits)[0]
    full = reverse_kl(torch.log_softmax(logits, -1), teacher)
    torch.testing.assert_close(value, full.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(full.sum(), logits)[0])


def test_trl_agrees_on_the_sampled_token():
    logits, teacher = random_log_probs(12).requires_grad_(), random_log_probs(13)
    tokens = torch.arange(7)
    ours, _ = sampled_token_loss(torch.log_softmax(logits, -1), teacher, tokens)
    theirs = trl_losses().compute_sampled_token_self_distillation_loss(
        logits, teacher, tokens, distillation_alpha=1.0
    )
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_trl_agrees_on_the_students_top_k_with_tail(beta):
    logits, teacher = random_log_probs(14).requires_grad_(), random_log_probs(15)
    pair = on_top_k(torch.log_softmax(logits, -1), teacher, k=5, by_teacher=False)
    ours = jensen_shannon(*pair, beta=beta)
    theirs = trl_losses().compute_topk_self_distillation_loss(
        logits, teacher, distillation_topk=5, distillation_alpha=beta, distillation_add_tail=True
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("by_teacher", [True, False])
def test_top_k_keeps_the_likeliest_of_one_side_and_all_mass(by_teacher):
    student = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    teacher = torch.tensor([[0.1, 0.1, 0.2, 0.6]]).log()
    pair = on_top_k(student, teacher, k=2, by_teacher=by_teacher)
    expected = (
        ([[0.1, 0.2, 0.7]], [[0.6, 0.2, 0.2]]) if by_teacher else ([[0.4, 0.3, 0.3]], [[0.1, 0.1, 0.8]])
    )
    for found, values in zip(pair, expected, strict=True):
        torch.testing.assert_close(found.exp(), torch.tensor(values))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("by_teacher", [True, False])
def test_top_k_of_the_whole_vocabulary_is_the_full_divergence(name, by_teacher):
    student, teacher = random_log_probs(16), random_log_probs(17)
    divergence = divergence_named(name, jsd_beta=0.4)
    for k in (23, 500):
        pair = on_top_k(student, teacher, k=k, by_teacher=by_teacher)
        torch.testing.assert_close(divergence(*pair), divergence(student, teacher), rtol=1e-12, atol=0)
    # A bucket merges entries, and merging never raises a divergence; nearly all entries come near to it.
    by_k = [divergence(*on_top_k(student, teacher, k=k, by_teacher=by_teacher)).sum() for k in (1, 5, 22)]
    assert by_k[0] <= by_k[1] <= by_k[2] == pytest.approx(divergence(student, teacher).sum().item())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("by_teacher", [True, False])
def test_top_k_gradient_is_the_numerical_one(name, by_teacher):
    logits, teacher = (
        random_log_probs(18, tokens=2, vocab=6).requires_grad_(),
        random_log_probs(19, tokens=2, vocab=6),
    )
    divergence = divergence_named(name, jsd_beta=0.3)
    assert torch.autograd.gradcheck(
        lambda x: divergence(*on_top_k(torch.log_softmax(x, -1), teacher, k=3, by_teacher=by_teacher)), logits
    )


def test_clip_bounds_each_entry_from_above_by_hand():
    # Row 0, forward: terms 1/4 ln 1/2, 0, 1/2 ln 2 = 0.347 -> 0.1; the negative term stays whole.
    found = forward_kl(STUDENT, TEACHER, clip=0.1)
    torch.testing.assert_close(found, torch.tensor([0.1 - 0.25 * math.log(2), 0.0]).double())
    reverse = reverse_kl(STUDENT, TEACHER, clip=0.1)  # terms 1/2 ln 2 -> 0.1, 0, 1/4 ln 1/2
    torch.testing.assert_close(reverse, found)
    half = 0.25 * math.log(2 / 3) + 0.5 * math.log(4 / 3)  # JSD's entries: 0.0212, 0, 0.0212
    clipped = jensen_shannon(STUDENT, TEACHER, beta=0.5, clip=0.02)[0].item()
    assert half == pytest.approx(0.0425, abs=1e-4)
    assert clipped == pytest.approx(0.04)


@pytest.mark.parametrize("name", ALL)
def test_a_high_clip_changes_nothing_and_a_low_one_lowers(name):
    logits, teacher = random_log_probs(20).requires_grad_(), random_log_probs(21)
    student = torch.log_softmax(logits, -1)
    plain = divergence_named(name, jsd_beta=0.5)(student, teacher)
    torch.testing.assert_close(divergence_named(name, jsd_beta=0.5, clip=1e3)(student, teacher), plain)
    low = divergence_named(name, jsd_beta=0.5, clip=1e-3)(student, teacher)
    assert (low < plain).all()
