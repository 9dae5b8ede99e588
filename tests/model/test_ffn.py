"""The FFN of every dense family is found by role, hooked, and reproduces the layer's own output."""

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from neuron_opsd.errors import ModelError
from neuron_opsd.model.ffn import find_ffns, hook_neurons, unwrap_adapters
from neuron_opsd.model.unembedding import backbone, final_norm_weight, logits_from_hidden, unembedding_weight
from neurons.tiny_models import FAMILIES, HIDDEN, LAYERS, VOCAB, WIDTH, build

NO_UP_BRANCH = {"phi", "gpt2", "gpt_neox", "opt", "bloom", "falcon", "starcoder2"}


def run_hooked(model, activation):
    """What the hooks see, and the down projections' own outputs, for the same tokens."""
    ffns = find_ffns(model)
    seen, outputs = {}, {}
    handles = [
        ffn.down_projection.register_forward_hook(
            lambda _m, _i, output, layer=ffn.layer: outputs.__setitem__(
                layer, output.clone()
            )  # Falcon adds to it in place
        )
        for ffn in ffns
    ]
    ids = torch.arange(12).view(2, 6) % VOCAB
    with torch.no_grad(), hook_neurons(ffns, activation, seen.__setitem__):
        backbone(unwrap_adapters(model))(input_ids=ids)
    for handle in handles:
        handle.remove()
    return ffns, seen, outputs


def with_lora(model, **options):
    names = {type(model.get_submodule(name)).__name__ for name, _ in model.named_modules()}
    config = LoraConfig(r=2, target_modules="all-linear", fan_in_fan_out="Conv1D" in names, **options)
    wrapped = get_peft_model(model, config)
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    return wrapped.eval()


@pytest.mark.parametrize("peft", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hooked_neurons_times_down_projection_give_the_ffn_output(family, peft):
    model = with_lora(build(family)) if peft else build(family)
    ffns, seen, outputs = run_hooked(model, "gate_up")
    assert [ffn.layer for ffn in ffns] == list(seen) == list(range(LAYERS))
    for ffn in ffns:
        weight = ffn.down_weight()
        assert weight.shape == (HIDDEN, 4 * HIDDEN if family == "bloom" else WIDTH)
        bias = getattr(ffn.down_projection, "bias", None)
        expected = seen[ffn.layer] @ weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(outputs[ffn.layer], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_gate_is_the_input_of_the_down_projection_only_without_an_up_branch(family):
    model = build(family)
    _, gate, _ = run_hooked(model, "gate")
    _, gate_up, _ = run_hooked(model, "gate_up")
    for layer in range(LAYERS):
        assert gate[layer].shape == gate_up[layer].shape
        assert torch.equal(gate[layer], gate_up[layer]) == (family in NO_UP_BRANCH)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "olmo2"])
def test_gate_is_the_activation_of_the_gate_projection(family):
    model = build(family)
    mlp = backbone(model).layers[0].mlp
    inputs = {}
    mlp.gate_proj.register_forward_hook(lambda _m, _i, output: inputs.setdefault("gate", output))
    _, seen, _ = run_hooked(model, "gate")
    act = torch.nn.functional.silu if family != "gemma3_text" else torch.nn.GELU(approximate="tanh")
    torch.testing.assert_close(seen[0], act(inputs["gate"]))


def test_hooks_are_gone_after_the_context_even_if_it_fails():
    model = build("llama")
    ffns = find_ffns(model)
    with pytest.raises(RuntimeError), hook_neurons(ffns, "gate", lambda *_: None):
        raise RuntimeError
    assert not any(ffn.activation._forward_hooks for ffn in ffns)


def test_an_attention_output_of_the_same_shape_is_not_taken_for_the_ffn():
    model = build("qwen3", num_attention_heads=5, num_key_value_heads=5)  # 5 heads x 8 = the FFN's width
    assert [type(ffn.down_projection) for ffn in find_ffns(model)] == [torch.nn.Linear] * LAYERS
    assert find_ffns(model)[0].down_projection is backbone(model).layers[0].mlp.down_proj


def test_disabled_and_merged_adapters_are_not_counted_twice():
    model = with_lora(build("llama"))
    ffn = find_ffns(model)[0]
    adapted = ffn.down_weight()
    with model.disable_adapter():
        base = ffn.down_weight()
    assert not torch.allclose(adapted, base)
    model.merge_adapter()
    torch.testing.assert_close(ffn.down_weight(), adapted)


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(r=2, target_modules=["down_proj"], use_dora=True),
        IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["dora", "ia3"],
)
def test_adapters_that_are_no_added_matrix_are_refused(adapter):
    model = get_peft_model(build("llama"), adapter)
    with pytest.raises(ModelError, match="merge_and_unload"):
        find_ffns(model)[0].down_weight()


@pytest.mark.parametrize(
    ("family", "experts"),
    [
        ("mixtral", {"num_local_experts": 4}),
        ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 8}),
        ("gpt_oss", {"num_local_experts": 4, "layer_types": ["full_attention"] * LAYERS}),
    ],
)
def test_a_mixture_of_experts_is_refused_by_name(family, experts):
    with pytest.raises(ModelError, match=f"'{family}' is a mixture of 4 experts.*Use a dense model"):
        find_ffns(build(family, **experts))


def test_a_model_without_one_projection_a_layer_is_refused():
    model = build("llama")
    backbone(model).layers[1].mlp.down_proj = torch.nn.Identity()
    with pytest.raises(ModelError, match="Layer 1 of model type 'llama' has 0 linear maps from 40"):
        find_ffns(model)


def test_quantised_weights_are_refused():
    model = build("llama")
    projection = find_ffns(model)[0].down_projection
    projection.weight = torch.nn.Parameter(torch.zeros(HIDDEN, WIDTH, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="without quantisation"):
        find_ffns(model)[0].down_weight()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "olmo"])
def test_every_family_has_a_final_norm_scale(family):
    assert final_norm_weight(build(family)).shape == (HIDDEN,)


def test_olmo_norm_has_no_scale():
    with pytest.raises(ModelError, match="final_norm_scale=false"):
        final_norm_weight(build("olmo"))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_unembedding_gives_the_models_own_logits(family, tied):
    """Before soft caps and scales: those of Gemma and Granite change logits, not e[y]."""
    model = build(family, tie_word_embeddings=tied)
    embeddings = model.get_input_embeddings().weight
    assert (unembedding_weight(model).data_ptr() == embeddings.data_ptr()) == tied
    ids = torch.arange(5)[None]
    with torch.no_grad():
        hidden = backbone(model)(input_ids=ids).last_hidden_state
        torch.testing.assert_close(logits_from_hidden(model, hidden), model(input_ids=ids).logits)
