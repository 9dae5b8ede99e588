"""The loss a token under each option, against float64 autograd on full logits, and its sum in chunks."""

import math

import pytest
import torch
from pydantic import ValidationError

from neuron_opsd.config import TrainingSettings
from neuron_opsd.model.divergence import entropy, jensen_shannon, reverse_kl, unlikelihood
from neuron_opsd.model.token_loss import MEASURED, importance_ratio, sum_in_chunks, token_loss

OPTIONS = [
    {"divergence": "reverse_kl"},
    {"divergence": "forward_kl", "pointwise_clip": 0.05},
    {"divergence": "jsd", "jsd_beta": 0.3, "loss_temperature": 2.0},
    {"divergence": "sampled_token"},
    {"divergence": "reverse_kl", "support": "teacher_top_k", "top_k": 3},
    {"divergence": "jsd", "support": "student_top_k", "top_k": 3, "pointwise_clip": 0.5},
]
NAMES = ["reverse", "forward clipped", "jsd tempered", "sampled", "teacher top-k", "student top-k"]


class Made:
    """Hidden states and heads of 7 tokens over 11 entries, in float64."""

    def __init__(self, *, seed: int = 9, same: bool = False) -> None:
        state = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=state, dtype=torch.float64)  # noqa: E731
        self.hidden, self.teacher_hidden = draw(7, 4).requires_grad_(), draw(7, 4).requires_grad_()
        self.weight, self.teacher_weight = draw(11, 4).requires_grad_(), draw(11, 4).requires_grad_()
        if same:
            self.teacher_hidden.data, self.teacher_weight.data = self.hidden.data, self.weight.data
        self.tokens = torch.randint(11, (7,), generator=state)

    def log_probs(self) -> tuple[torch.Tensor, torch.Tensor]:
        student = torch.log_softmax(self.hidden @ self.weight.T, -1)
        return student, torch.log_softmax(self.teacher_hidden @ self.teacher_weight.T, -1).detach()

    def summed(self, options: dict, chunk_tokens: int = 3, **more) -> tuple[torch.Tensor, torch.Tensor]:
        return sum_in_chunks(
            self.hidden,
            self.teacher_hidden,
            student_logits=lambda h: h @ self.weight.T,
            teacher_logits=lambda h: h @ self.teacher_weight.T,
            loss=token_loss(TrainingSettings(**options)),
            tokens=self.tokens,
            chunk_tokens=chunk_tokens,
            head=[self.weight],
            **more,
        )


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_chunks_change_neither_value_nor_gradient(options, chunk_tokens):
    made = Made()
    student, teacher = made.log_probs()
    values = token_loss(TrainingSettings(**options))(student, teacher, made.tokens)
    expected = torch.autograd.grad(values.loss.sum(), [made.hidden, made.weight])

    total, sums = made.summed(options, chunk_tokens)
    total.backward()

    torch.testing.assert_close(total, values.loss.sum())
    torch.testing.assert_close((made.hidden.grad, made.weight.grad), expected)
    assert made.teacher_hidden.grad is None
    assert made.teacher_weight.grad is None
    entropies = [entropy(student).sum(), entropy(teacher).sum()]
    measured = [values.divergence.sum(), *entropies, values.captured.sum(), torch.tensor(7.0).double()]
    torch.testing.assert_close(sums, torch.stack(measured).detach())
    assert not sums.requires_grad


def test_tokens_that_are_pushed_down_have_another_loss_and_the_rest_their_own():
    made, pushed = Made(), torch.tensor([True, False] * 3 + [True])
    student, teacher = made.log_probs()
    distilled = reverse_kl(student, teacher)[~pushed].sum()
    expected = distilled + 0.3 * unlikelihood(student, made.tokens)[pushed].sum()
    gradients = torch.autograd.grad(expected, [made.hidden, made.weight])
    total, sums = made.summed({}, pushed_down=pushed, unlikelihood_weight=0.3)
    total.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close((made.hidden.grad, made.weight.grad), gradients)
    torch.testing.assert_close(sums[0], reverse_kl(student, teacher).sum().detach())  # of all tokens still


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_equal_prompts_and_weights_give_zero_loss_and_gradient(options):
    made = Made(same=True)
    total, _ = made.summed(options)
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-12)
    assert made.hidden.grad.abs().max() < 1e-12
    assert made.weight.grad.abs().max() < 1e-12


def test_temperature_divides_both_roles_logits():
    made = Made()
    student, teacher = made.log_probs()
    softened = [torch.log_softmax(values / 2.0, -1) for values in (student, teacher)]
    found = token_loss(TrainingSettings(loss_temperature=2.0))(student, teacher, made.tokens)
    torch.testing.assert_close(found.loss, reverse_kl(*softened))
    assert (found.loss < reverse_kl(student, teacher)).all()


def test_settings_reach_the_divergence():
    made = Made()
    student, teacher = made.log_probs()
    found = token_loss(TrainingSettings(divergence="jsd", jsd_beta=0.2))(student, teacher, made.tokens)
    torch.testing.assert_close(found.loss, jensen_shannon(student, teacher, beta=0.2))


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "jsd"])
@pytest.mark.parametrize("support", ["teacher_top_k", "student_top_k"])
def test_top_k_of_the_whole_vocabulary_is_the_full_loss_and_gradient(divergence, support):
    gradients, totals = [], []
    for options in ({}, {"support": support, "top_k": 11}):
        made = Made()
        total, sums = made.summed({"divergence": divergence, **options})
        total.backward()
        totals.append(total)
        gradients.append(made.hidden.grad)
        assert sums[MEASURED.index("captured_mass_fraction")].item() == pytest.approx(7)
    torch.testing.assert_close(*totals)
    torch.testing.assert_close(*gradients)


def test_captured_mass_is_the_teachers_share_in_the_support():
    made = Made()
    _, teacher = made.log_probs()
    _, sums = made.summed({"support": "teacher_top_k", "top_k": 3})
    expected = teacher.exp().sort(-1, descending=True).values[:, :3].sum()
    torch.testing.assert_close(sums[MEASURED.index("captured_mass_fraction")], expected)


def test_importance_ratio_by_hand_and_its_cap():
    student = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]).log()
    sampled = torch.tensor([0.5, 0.3, 0.4]).log()
    found = importance_ratio(student, torch.tensor([0, 0, 0]), sampled, cap=2.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 0.5]))  # 1; 3 capped; 1/2


def test_stale_tokens_are_weighted_and_fresh_ones_are_not():
    made = Made()
    student, teacher = made.log_probs()
    own = student.gather(1, made.tokens[:, None])[:, 0].detach()
    fresh, _ = made.summed({}, sampled_log_probs=own, max_importance_ratio=2.0)
    torch.testing.assert_close(fresh, made.summed({})[0])
    shift = torch.tensor([0.0, 1.0, -1.0, 0.2, -0.2, 3.0, 0.5]).double()
    stale, sums = made.summed({}, sampled_log_probs=own + shift, max_importance_ratio=2.0)
    weights = (-shift).exp().clamp(max=2.0)
    torch.testing.assert_close(stale, (reverse_kl(student, teacher) * weights).sum())
    torch.testing.assert_close(sums[MEASURED.index("importance_ratio")], weights.sum())


def test_trl_agrees_on_the_capped_ratio():
    trl = pytest.importorskip("trl.experimental.sdpo.loss_utils", reason="TRL is the oracle")
    made = Made()
    student, _ = made.log_probs()
    own = student.gather(1, made.tokens[:, None])[:, 0]
    old = own.detach() + torch.linspace(-2, 2, 7)
    theirs = trl.apply_importance_sampling_clipping(torch.ones(7).double(), own, old, 2.0)
    torch.testing.assert_close(importance_ratio(student, made.tokens, old, cap=2.0), theirs)


@pytest.mark.parametrize("options", [{"support": "teacher_top_k"}, {"pointwise_clip": 0.05}])
def test_sampled_token_refuses_what_it_has_no_use_for(options):
    with pytest.raises(ValidationError, match="divergence=sampled_token"):
        TrainingSettings(divergence="sampled_token", **options)


def test_far_apart_float32_top_k_stays_finite():
    student = torch.log_softmax(torch.tensor([[200.0, 0.0, -200.0]]), -1).requires_grad_()
    teacher = torch.log_softmax(torch.tensor([[-200.0, 0.0, 200.0]]), -1)
    # The teacher's best entry is the student's worst, so the tails are compared: 0 - (-200).
    for support, expected in (("teacher_top_k", 200), ("student_top_k", 400)):
        values = token_loss(TrainingSettings(support=support, top_k=1))(student, teacher, torch.tensor([0]))
        (gradient,) = torch.autograd.grad(values.loss.sum(), student)
        assert torch.isfinite(values.loss).all()
        assert torch.isfinite(gradient).all()
        assert values.loss.item() == pytest.approx(expected, rel=0.01)
        assert not math.isnan(values.captured.item())


def test_no_gradient_flows_through_the_importance_ratio():
    gradients = []
    shift = torch.tensor([0.0, 0.4, -0.4, 0.2, -0.2, 0.6, 0.5]).double()
    for stale in (True, False):
        made = Made()
        own = made.log_probs()[0].gather(1, made.tokens[:, None])[:, 0].detach()
        how = {"sampled_log_probs": own + shift} if stale else {"weights": (-shift).exp()}
        made.summed({}, max_importance_ratio=2.0, **how)[0].backward()
        gradients.append(made.hidden.grad)
    torch.testing.assert_close(*gradients)
