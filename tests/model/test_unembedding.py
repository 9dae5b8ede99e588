"""Logits of models in half precision are float32: their products are never rounded."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma4TextConfig,
    GemmaConfig,
    LlamaConfig,
    NemotronConfig,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
)

from devices.other_device import OTHER, OtherDevice, moved
from helpers import build_tiny_model
from neuron_opsd.errors import ModelError
from neuron_opsd.model.unembedding import (
    Head,
    divide_logits,
    final_norm,
    final_norm_weight,
    logits_from_hidden,
)

STATES = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_of_half_precision_is_float32(dtype):
    model, hidden = build_tiny_model().to(dtype), (10 * STATES).to(dtype)
    exact = hidden.double() @ model.lm_head.weight.double().T
    found = logits_from_hidden(model, hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert (nn.functional.linear(hidden, model.lm_head.weight).double() - exact).abs().max() > 1e-3


def test_pieces_of_the_matrix_change_nothing(monkeypatch):
    model, hidden = build_tiny_model().bfloat16(), STATES.bfloat16().view(7, 1, 32)
    whole = logits_from_hidden(model, hidden)
    monkeypatch.setattr("neuron_opsd.model.unembedding.ROWS_AT_ONCE", 100)
    torch.testing.assert_close(logits_from_hidden(model, hidden), whole, rtol=1e-6, atol=1e-6)
    assert whole.shape == (7, 1, 260)


@pytest.mark.parametrize("is_autocast", [False, True])
def test_gradients_are_those_of_the_exact_product(is_autocast):
    """Of bfloat16 weights, and of float32 weights under autocast: within the rounding of bfloat16."""
    exact = build_tiny_model().bfloat16().float()
    model = copy.deepcopy(exact) if is_autocast else copy.deepcopy(exact).bfloat16()
    hidden = STATES.bfloat16()
    outer = torch.randn(7, 260, generator=torch.Generator().manual_seed(1))
    gradients = {}
    for name, own in (("exact", exact), ("half", model)):
        own.requires_grad_(True)
        leaf = (hidden if name == "half" and not is_autocast else hidden.float()).clone().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast and name == "half"):
            logits = logits_from_hidden(own, leaf)
        assert logits.dtype == torch.float32
        gradients[name] = torch.autograd.grad((logits * outer).sum(), [leaf, own.lm_head.weight])
        gradients[name] += (logits.detach(),)
    for found, expected, bound in zip(gradients["half"], gradients["exact"], (0.01, 0.01, 1e-6), strict=True):
        assert (found.float() - expected).norm() <= bound * expected.norm()


def test_a_head_on_another_device_than_the_last_layer():
    model = moved(build_tiny_model())
    with OtherDevice():
        assert logits_from_hidden(model, STATES).device == OTHER


def test_wider_factors_win():
    model = build_tiny_model().bfloat16()
    assert logits_from_hidden(model, STATES).dtype == torch.float32
    assert logits_from_hidden(build_tiny_model().double(), STATES.double()).dtype == torch.float64
    kept = model.lm_head.weight.detach().clone()
    mixed = logits_from_hidden(build_tiny_model(), STATES.bfloat16(), other=Head(kept, None))
    torch.testing.assert_close(mixed, STATES.bfloat16().float() @ kept.float().T)


SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SIZES |= {"num_key_value_heads": 2, "pad_token_id": 0}
OPT = OPTConfig(
    vocab_size=50,
    hidden_size=32,
    word_embed_proj_dim=32,
    ffn_dim=48,
    num_hidden_layers=2,
    num_attention_heads=4,
)


GEMMA_4 = Gemma4TextConfig(**SIZES, head_dim=8, hidden_size_per_layer_input=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        GemmaConfig(**SIZES, head_dim=8),
        GEMMA_4,
        NemotronConfig(**SIZES),
        PhiConfig(**SIZES),
    ],
    ids=lambda config: config.model_type,
)
def test_the_scale_of_the_last_normalisation_by_hand(config: PretrainedConfig, dtype: torch.dtype):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    norm, states = final_norm(model), torch.randn(32)
    norm.weight.add_(torch.randn(32) / 4)
    states -= states.mean()  # so that it makes no difference whether a norm takes the mean out
    expected = norm(states[None])[0] * states.square().mean().sqrt() / states
    norm.to(dtype)
    torch.testing.assert_close(final_norm_weight(model).float(), expected, rtol=2e-2, atol=2e-2)


def test_a_normalisation_that_scales_in_another_way_is_refused():
    class Tripled(nn.LayerNorm):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 3 * super().forward(input)

    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    model.model.norm = Tripled(32)
    with pytest.raises(ModelError, match=r"Tripled scales by neither its weight.*student_entropy=own"):
        final_norm_weight(model)


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES, tie_word_embeddings=True),
        GemmaConfig(**SIZES, head_dim=8),
        CohereConfig(**SIZES, logit_scale=0.5),
        PhiConfig(**SIZES),
        OPT,
        NemotronConfig(**SIZES),
        GEMMA_4,
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_takes_a_temperature_in(config: PretrainedConfig):
    """Through the scale of its last normalisation, its biases, and a scale that is kept as one more than stored."""
    torch.manual_seed(0)
    model, ids = AutoModelForCausalLM.from_config(config).eval(), torch.tensor([[5, 6, 7]])
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # they begin at 0 and 1, where a fault would not show
            parameter.add_(torch.randn_like(parameter) / 4)
    expected = model(ids).logits / 0.7
    divide_logits(model, 0.7)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_capped_model_takes_no_temperature_in():
    model = AutoModelForCausalLM.from_config(Gemma2Config(**SIZES, head_dim=8))
    with pytest.raises(ModelError, match=r"Gemma2ForCausalLM caps its logits.*student_entropy=own"):
        divide_logits(model, 0.7)
