"""A prompt read once for all its completions gives the states of reading it again for each."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, MistralConfig, Qwen3Config

from helpers import build_tiny_model
from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.shared_prompt import scoring_states
from neuron_opsd.model.unembedding import backbone

LONG, OTHER, SHORT = list(range(5, 60)), list(range(100, 130)), [7]
ROWS = [
    (LONG, [11, 12, 13, 14]), (OTHER, [9, 10, 4]), (LONG, [15]), (SHORT, [3, 5]), (LONG, [20, 21]),
    (OTHER, [30] * 9), (SHORT, [6]),
]  # fmt: skip
PROMPTS, COMPLETIONS = [row[0] for row in ROWS], [row[1] for row in ROWS]
SIZES = {
    "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
CONFIGS = {
    "qwen3": Qwen3Config(**SIZES),
    "mistral, sliding window": MistralConfig(**SIZES, sliding_window=16),
    "gemma2, every other layer slides": Gemma2Config(**SIZES, sliding_window=16),
    "gpt2, learned positions": GPT2Config(
        vocab_size=260, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2
    ),
}


def plainly(model) -> torch.Tensor:
    rows = [predicting_states(model, model, *pad_right([p], [c])) for p, c in ROWS]
    return torch.cat(rows).detach()


def assert_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_states_are_those_of_plain_scoring(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).float().eval()
    assert_alike(scoring_states(model, PROMPTS, COMPLETIONS), plainly(model))


def test_each_shared_prompt_is_read_once(tiny_model):
    seen = []
    handle = backbone(tiny_model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    scoring_states(tiny_model, PROMPTS, COMPLETIONS)
    handle.remove()
    # three prompts of 55, 30 and 1 tokens, each then its completions without their last token
    assert sorted(seen) == sorted([(1, 55), (3, 3), (1, 30), (2, 8), (1, 1), (2, 1)])


def test_rows_that_share_nothing_are_one_batch():
    model = build_tiny_model()
    prompts, completions = [LONG, OTHER, SHORT], [[1, 2], [3], [4, 5, 6]]
    plain = predicting_states(model, model, *pad_right(prompts, completions))
    assert torch.equal(scoring_states(model, prompts, completions), plain)


def test_no_gradient_is_kept(tiny_model):
    assert not scoring_states(tiny_model, PROMPTS, COMPLETIONS).requires_grad
