"""SmolLM2-135M: rounding alone separates batch sizes, orders and dtypes, and stays within stated bounds."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from neuron_opsd.config import ModelSettings, NeuronSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.ffn import find_ffns, hook_neurons
from neuron_opsd.model.load import load_model
from neuron_opsd.model.unembedding import backbone, unembedding_weight
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.neurons.contribution import contribution, token_readout
from neuron_opsd.neurons.sets import NeuronSetBuilder, merge_top_entries, resolve_sizes
from neuron_opsd.records import Rollout

TEXTS = [
    ("What is the capital of France?", "The capital of France is Paris, a city on the river Seine."),
    ("Why is the sky blue?", "Air scatters blue light more than red, so it comes from everywhere."),
    ("Name a prime number.", "7"),
    (
        "What do plants need to grow?",
        "Plants need light, water, carbon dioxide and minerals from the soil. " * 6,
    ),
    ("Is water wet?", "Yes."),
    (
        "How does a magnet work?",
        "In a magnet the small magnetic moments of many electrons point the same way. " * 3,
    ),
    ("Say nothing.", ""),
]


def load(dtype):
    try:
        return load_model(ModelSettings(name="embedded:smollm2-135m", dtype=dtype, device="cpu"))
    except ModelError as error:  # the package that carries the weights is optional
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def real_model():
    return load("float32")


def rollouts_of(tokenizer):
    return [
        Rollout(
            question_id=question,
            rollout_index=0,
            choice_order=(),
            prompt_ids=tuple(tokenizer(question).input_ids),
            completion_ids=tuple(tokenizer(reply).input_ids) if reply else (),
            token_log_probs=(),
            finish_reason="stop",
            reply=reply,
            answer=None,
        )
        for question, reply in TEXTS
    ]


def jaccard(left, right):
    union = np.union1d(left, right)
    return len(np.intersect1d(left, right)) / len(union) if len(union) else 1.0


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"batch_size": 7}, {"batch_size": 3}, {"chunk_tokens": 16}], ids=str)
def test_float32_is_the_same_under_another_batch_size_and_order(real_model, changes):
    model, tokenizer = real_model
    rollouts = rollouts_of(tokenizer)
    alone_settings = NeuronSettings(**{**changes, "batch_size": 1})
    alone = list(capture_neurons(model, tokenizer, rollouts, alone_settings))
    together = list(capture_neurons(model, tokenizer, rollouts[::-1], NeuronSettings(**changes)))
    for one, other in zip(alone, together[::-1], strict=True):
        assert one.question_id == other.question_id
        assert jaccard(one.overlap_set, other.overlap_set) >= 0.999
        assert abs(one.consensus_score - other.consensus_score) <= 0.001 * one.consensus_score
        assert len(one.overlap_set) == (659 if one.num_completion_tokens else 0)


@pytest.mark.slow
def test_bfloat16_stays_near_float32(real_model):
    model, tokenizer = real_model
    exact = list(capture_neurons(model, tokenizer, rollouts_of(tokenizer), NeuronSettings()))
    rounded = list(capture_neurons(load("bfloat16")[0], tokenizer, rollouts_of(tokenizer), NeuronSettings()))
    for one, other in zip(exact, rounded, strict=True):
        assert jaccard(one.overlap_set, other.overlap_set) >= 0.95
        assert abs(one.consensus_score - other.consensus_score) <= 0.01 * one.consensus_score


def decoded(model, rollouts):
    """Gates as an engine meets them: the prompt, then one token after the other over the cache."""
    for one in rollouts:
        seen, cache = {}, DynamicCache(config=model.config)
        with hook_neurons(
            find_ffns(model), "gate", lambda layer, n, seen=seen: seen.setdefault(layer, []).append(n[0, -1])
        ):
            for ids in (one.prompt_ids, *((token,) for token in one.completion_ids[:-1])):
                backbone(model)(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
        yield torch.stack([torch.stack(states) for states in seen.values()])


def padded(side):
    """Gates of one batch of all, padded on one side by the plainest code."""

    def gates(model, rollouts):
        width = max(len(one.prompt_ids) + len(one.completion_ids) for one in rollouts)
        ids, mask = (torch.zeros(len(rollouts), width, dtype=torch.long) for _ in range(2))
        starts = []
        for row, one in enumerate(rollouts):
            text = torch.tensor(one.prompt_ids + one.completion_ids)
            starts.append(width - len(text) if side == "left" else 0)
            ids[row, starts[row] : starts[row] + len(text)] = text
            mask[row, starts[row] : starts[row] + len(text)] = 1
        seen = {}
        with hook_neurons(find_ffns(model), "gate", lambda layer, n: seen.__setitem__(layer, n)):
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            backbone(model)(input_ids=ids, attention_mask=mask, position_ids=positions)
        for row, one in enumerate(rollouts):
            first = starts[row] + len(one.prompt_ids) - 1
            yield torch.stack([n[row, first : first + len(one.completion_ids)] for n in seen.values()])

    return gates


@pytest.mark.slow
@pytest.mark.parametrize(
    "gates", [decoded, padded("left"), padded("right")], ids=["decoded", "padded left", "padded right"]
)
def test_float32_is_the_same_under_another_engine_and_padding_side(real_model, gates):
    model, tokenizer = real_model
    rollouts = [one for one in rollouts_of(tokenizer) if 0 < len(one.completion_ids) < 30]
    ffns, rows = find_ffns(model), unembedding_weight(model)
    sizes = resolve_sizes(ffns, NeuronSettings())
    captured = capture_neurons(model, tokenizer, rollouts, NeuronSettings())
    with torch.inference_mode():
        for one, record, states in zip(rollouts, captured, gates(model, rollouts), strict=True):
            tokens = torch.tensor(one.completion_ids)
            builder = NeuronSetBuilder(sizes, "union")
            scores = [
                contribution(
                    states[ffn.layer],
                    token_readout(ffn.down_weight(), rows[tokens]),
                    torch.arange(len(tokens)),
                )
                for ffn in ffns
            ]
            builder.add_chunk(torch.stack([merge_top_entries(score, sizes.num_entries) for score in scores]))
            assert jaccard(record.overlap_set, builder.overlap_set()) >= 0.999
            counted = sum(builder.neurons_per_layer())
            assert abs(counted - record.consensus_score) <= 0.001 * record.consensus_score
