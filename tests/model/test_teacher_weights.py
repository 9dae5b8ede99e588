"""The teacher's weights: moving average, frozen, live; full and LoRA."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from helpers import build_tiny_model
from neuron_opsd.config import TrainingSettings
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.training.teacher import Teacher
from neurons.tiny_models import HIDDEN, build


def small(dtype=torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).to(dtype)


def move_to(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.fill_(value)


def test_average_follows_its_closed_form():
    """teacher_n = (1-r)^n w_0 + sum_i r (1-r)^(n-i) w_i."""
    model, rate = small(), 0.1
    start = model.weight.detach().clone().double()
    teacher = TeacherWeights(model, kind="ema", ema_rate=rate)
    expected = start
    for step in range(1, 21):
        move_to(model, step / 7)
        teacher.update()
    expected = (1 - rate) ** 20 * start + sum(rate * (1 - rate) ** (20 - i) * i / 7 for i in range(1, 21))
    torch.testing.assert_close(teacher.values["weight"].double(), expected, rtol=1e-6, atol=1e-7)


def test_a_constant_student_is_approached_geometrically():
    model = small()
    start = model.weight.detach().clone()
    teacher = TeacherWeights(model, kind="ema", ema_rate=0.01)
    move_to(model, 2.0)
    for _ in range(100):
        teacher.update()
    torch.testing.assert_close(teacher.values["weight"], 2 + 0.99**100 * (start - 2), rtol=1e-5, atol=1e-6)


def test_bfloat16_average_does_not_stall():
    """In bfloat16 one step of 0.01 towards a near value rounds to nothing; the float32 copy moves."""
    model = small(torch.bfloat16)
    move_to(model, 1.0)
    teacher = TeacherWeights(model, kind="ema", ema_rate=0.01)
    move_to(model, 1.0625)
    for _ in range(200):
        teacher.update()
    assert teacher.values["weight"].dtype == torch.float32
    assert teacher.values["weight"].min().item() > 1.05


def test_frozen_never_moves():
    model = small()
    start = model.weight.detach().clone()
    teacher = TeacherWeights(model, kind="frozen", ema_rate=0.5)
    move_to(model, 9.0)
    teacher.update()
    with teacher.applied():
        assert torch.equal(model.weight, start)
    assert torch.all(model.weight == 9)


def test_live_is_the_student_at_every_moment():
    model = small()
    teacher = TeacherWeights(model, kind="live", ema_rate=0.5)
    move_to(model, 3.0)
    with teacher.applied():
        assert torch.all(model.weight == 3)
    assert teacher.state_dict() == {}


@pytest.mark.parametrize("raises", [False, True])
def test_swap_restores_the_very_tensors(raises):
    model = small()
    teacher = TeacherWeights(model, kind="frozen", ema_rate=0.5)
    move_to(model, 4.0)
    storages = {name: p.data_ptr() for name, p in model.named_parameters()}
    try:
        with teacher.applied():
            assert not torch.any(model.weight == 4)
            if raises:
                raise RuntimeError
    except RuntimeError:
        pass
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == storages
    assert torch.all(model.weight == 4)


def test_gradients_and_optimiser_still_reach_the_student_after_a_swap():
    model = small()
    teacher = TeacherWeights(model, kind="frozen", ema_rate=0.5)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.weight.detach().clone()
    with torch.no_grad(), teacher.applied():
        model(torch.ones(1, 3))
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    torch.testing.assert_close(model.weight.detach(), before - 1)
    torch.testing.assert_close(teacher.values["weight"], before)


def test_checkpoint_round_trip_and_strange_checkpoint():
    model = small()
    teacher = TeacherWeights(model, kind="ema", ema_rate=0.5)
    move_to(model, 1.0)
    teacher.update()
    saved = {name: value.clone() for name, value in teacher.state_dict().items()}
    again = TeacherWeights(model, kind="ema", ema_rate=0.5)
    again.load_state_dict(saved)
    assert all(torch.equal(again.values[name], saved[name]) for name in saved)
    with pytest.raises(KeyError):
        again.load_state_dict({"another": torch.zeros(1)})


def lora_model() -> nn.Module:
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(build_tiny_model(), config)


def test_lora_keeps_the_factors_alone_and_averages_them_apart():
    model = lora_model()
    teacher = TeacherWeights(model, kind="ema", ema_rate=0.25)
    assert teacher.values
    assert all("lora_" in name for name in teacher.values)
    start = {name: value.clone() for name, value in teacher.values.items()}
    move_to(model, 0.5)
    teacher.update()
    for name, value in teacher.values.items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.125)


def test_lora_frozen_teacher_is_the_model_without_its_adapter():
    model = lora_model()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad(), model.disable_adapter():
        base = model(ids).logits
    teacher = TeacherWeights(model, kind="frozen", ema_rate=0.5)
    move_to(model, 0.05)
    with torch.no_grad():
        student = model(ids).logits
        with teacher.applied():
            found = model(ids).logits
        assert torch.equal(model(ids).logits, student)
    torch.testing.assert_close(found, base)
    assert not torch.allclose(student, base, atol=1e-3)


@pytest.mark.parametrize("tied", [False, True])
def test_head_weight_is_the_teachers_own_copy_where_the_head_is_trained(tied):
    model = build_tiny_model(tied=tied)
    head = model.get_output_embeddings().weight
    start = head.detach().clone()
    teacher = TeacherWeights(model, kind="frozen", ema_rate=0.5)
    with torch.no_grad():
        head.add_(1.0)
    assert torch.equal(teacher.value_of(head), start)
    assert TeacherWeights(model, kind="live", ema_rate=0.5).value_of(head) is head
    model.requires_grad_(False)
    assert TeacherWeights(model, kind="frozen", ema_rate=0.5).value_of(head) is head


def test_the_teachers_logits_have_its_own_head_bias():
    student = build("phi").requires_grad_(True)
    weights = TeacherWeights(student, kind="frozen", ema_rate=0.5)
    states = torch.randn(3, HIDDEN)
    with torch.no_grad():
        start = student.lm_head(states)
        student.lm_head.bias.add_(1.0)
        found = Teacher(student, weights, TrainingSettings()).logits(states)
    torch.testing.assert_close(found, start)
