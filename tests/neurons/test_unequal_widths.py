"""Families whose layers differ, or whose width is not the configuration's: each FFN is found, and ids stay its own."""

import pytest
import torch

from helpers import build_tiny_tokenizer
from neuron_opsd.config import NeuronSettings
from neuron_opsd.model.ffn import find_ffns, hook_neurons
from neuron_opsd.model.unembedding import backbone, unembedding_weight
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.neurons.contribution import contribution, token_readout
from neuron_opsd.neurons.sets import resolve_sizes
from neurons.tiny_models import VOCAB, WIDTH, build, random_rollouts

PER_LAYER = {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 4, "sliding_window": 8}
FOUR_LAYERS = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
GEMMA4 = {
    **PER_LAYER,
    **FOUR_LAYERS,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "global_head_dim": 8,
}
GEMMA3N = {
    **PER_LAYER,
    **FOUR_LAYERS,
    "num_kv_shared_layers": 2,
    "intermediate_size": [WIDTH] * 4,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
}
LFM2 = {"layer_types": ["conv", "full_attention"], "intermediate_size": 60, "block_multiple_of": 8}
WIDTHS = {
    "gemma4_text": (GEMMA4, [WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH]),
    "gemma3n_text": (GEMMA3N, [WIDTH] * 4),
    "lfm2": (LFM2, [40, 40]),  # two thirds of 60, a multiple of 8
}


@pytest.mark.parametrize("family", WIDTHS)
def test_every_ffn_is_found_and_gives_the_layers_output(family):
    options, widths = WIDTHS[family]
    model = build(family, **options)
    ffns, seen, outputs = find_ffns(model), {}, {}
    assert [ffn.d_ff for ffn in ffns] == widths
    for ffn in ffns:
        ffn.down_projection.register_forward_hook(
            lambda _m, _i, output, layer=ffn.layer: outputs.__setitem__(layer, output.clone())
        )
    with torch.no_grad(), hook_neurons(ffns, "gate_up", seen.__setitem__):
        backbone(model)(input_ids=torch.arange(12).view(2, 6))
    for ffn in ffns:
        expected = seen[ffn.layer] @ ffn.down_weight().T
        torch.testing.assert_close(outputs[ffn.layer], expected, rtol=1e-4, atol=1e-4)


def test_sets_of_layers_that_differ_are_those_of_each_layer():
    model = build("gemma4_text", **GEMMA4)
    ffns, settings = find_ffns(model), NeuronSettings(num_entries=6, overlap_size=12)
    assert resolve_sizes(ffns, NeuronSettings()).d_ff == 2 * WIDTH
    assert resolve_sizes(ffns, NeuronSettings()).num_entries == round(0.206 * 1.5 * WIDTH)
    rollout = random_rollouts([9])[0]
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad(), hook_neurons(ffns, "gate", seen.__setitem__):
        backbone(model)(input_ids=ids)
    tokens = torch.tensor(rollout.completion_ids)
    start = len(rollout.prompt_ids) - 1
    best: dict[int, float] = {}
    for ffn in ffns:
        readout = token_readout(ffn.down_weight(), unembedding_weight(model)[tokens])
        scores = contribution(seen[ffn.layer][0, start:-1], readout, torch.arange(len(tokens)))
        for place in scores.flatten().topk(6).indices.tolist():
            neuron = ffn.layer * 2 * WIDTH + place % ffn.d_ff
            best[neuron] = max(best.get(neuron, -1e9), scores.flatten()[place].item())
    made = next(iter(capture_neurons(model, build_tiny_tokenizer(), [rollout], settings)))
    assert made.consensus_score == len(best)
    positive = sorted((value, neuron) for neuron, value in best.items() if value > 0)
    assert sorted(neuron for _, neuron in positive[-12:]) == made.overlap_set.tolist()
