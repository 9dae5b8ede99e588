"""SmolLM2-135M: rounding alone separates batch sizes, orders and dtypes, and stays within stated bounds."""

import numpy as np
import pytest

from neuron_opsd.config import ModelSettings, NeuronSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.load import load_model
from neuron_opsd.neurons.capture import capture_neurons
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
