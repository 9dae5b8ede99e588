"""Every pass that a GPU would make, on a second device: nothing is left on the first, and the numbers are the same."""

import pytest
import torch
from devices_passes import evaluation, loss_and_gradient, neurons, sampled
from other_device import OTHER, MixedDevicesError, OtherDevice, OtherTensor, moved

from helpers import build_tiny_model


def model_there():
    return moved(tiny())


def tiny():
    """SDPA asks for a device's own kernels: the eager form asks for none."""
    model = build_tiny_model()
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("budget", [None, 22])
def test_sampling(budget):
    """The budget holds one completion of the longer prompt, and not two."""
    options = {"cache_tokens": budget, "max_new_tokens": 8}
    expected = sampled(tiny(), **options)
    with OtherDevice():
        assert sampled(model_there(), **options) == expected


@pytest.mark.parametrize("options", [{}, {"final_norm_scale": True}, {"score": "magnitude"}], ids=str)
def test_neurons(options):
    expected = neurons(tiny(), **options)
    with OtherDevice():
        assert neurons(model_there(), **options) == expected


def test_what_evaluation_computes():
    expected = evaluation(tiny())
    with OtherDevice():
        assert evaluation(model_there()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("teacher", ["ema", "frozen"])
def test_a_step_of_training(tmp_path, method, teacher):
    options = {
        "method": method,
        "teacher": teacher,
        "num_rollouts": 2,
        "batch_size": 2,
        "micro_batch_size": 4,
    }
    loss, gradient = loss_and_gradient(tiny(), tmp_path / "here", **options)
    with OtherDevice():
        there, other = loss_and_gradient(model_there(), tmp_path / "there", device=OTHER, **options)
    assert there == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)


def test_a_tensor_left_on_the_cpu_makes_it_fail():
    """The test's own test: one weight, and one tensor that code makes without a device."""
    with OtherDevice():
        model = model_there()
        model.model.norm.weight = torch.nn.Parameter(torch.ones(32))
        with pytest.raises(MixedDevicesError):
            neurons(model, final_norm_scale=True)
        with pytest.raises(MixedDevicesError):
            sampled(model)
        there = OtherTensor(torch.ones(3))
        with pytest.raises(MixedDevicesError):
            there + torch.arange(3)
        assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2]  # a scalar may stay
        with pytest.raises(MixedDevicesError):
            torch.arange(3)[OtherTensor(torch.tensor([0]))]
