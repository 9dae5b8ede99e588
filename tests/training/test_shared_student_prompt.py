"""The student reads the prompt of a group once in a micro-batch: the same gradients from fewer tokens."""

import pytest
import torch
from training_runs import grouped_item, make_item, rows, run
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MambaConfig, MistralConfig

from helpers import build_tiny_model
from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.shared_prompt import states_of_completions
from neuron_opsd.model.unembedding import backbone
from neuron_opsd.training import opsd_trainer

PROMPT, COMPLETIONS = list(range(5, 60)), [[11, 12, 13, 14], [15], [20, 21]]
SIZES = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2}


def gradients(model, states) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    (states * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("completions", [COMPLETIONS, [[7], [8]]], ids=["several tokens", "one token"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_states_and_gradients_are_those_of_whole_rows(family, completions):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=260, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    model = build_tiny_model() if family == "llama" else AutoModelForCausalLM.from_config(config)
    plain = predicting_states(model, model, *pad_right([PROMPT] * len(completions), completions))
    shared = states_of_completions(model, PROMPT, completions)
    torch.testing.assert_close(shared, plain, rtol=1e-5, atol=1e-5)
    expected, found = gradients(model, plain), gradients(model, shared)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=16),
        MambaConfig(**SIZES, state_size=4),
    ],
    ids=["sliding window", "recurrent"],
)
def test_models_that_keep_something_else_read_whole_rows(config):
    assert states_of_completions(AutoModelForCausalLM.from_config(config), PROMPT, COMPLETIONS) is None


@pytest.mark.parametrize(
    ("changes", "is_shared"),
    [
        ({"micro_batch_size": 4}, True),
        ({"micro_batch_size": 8}, False),  # of two questions
        ({"micro_batch_size": 4, "trainer": {"gradient_checkpointing": True}}, False),
        ({"micro_batch_size": 4, "method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}, False),
    ],
)
def test_a_micro_batch_of_one_question_reads_its_prompt_once(tmp_path, monkeypatch, changes, is_shared):
    read = []
    model = build_tiny_model(spread=0.25)
    backbone(model).register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape) if torch.is_grad_enabled() else None,
        with_kwargs=True,
    )
    options = {"steps": 1, "item": grouped_item(4), "num_rollouts": 4, "batch_size": 2, **changes}
    run(tmp_path / "run", model=model, **options)
    prompts = [len(make_item(place).student_ids) for place in range(2)]
    alone = [width for num_rows, width in read if num_rows == 1]
    assert sorted(alone) == (sorted(prompts) if is_shared else [])
    if is_shared:
        monkeypatch.setattr(opsd_trainer, "states_of_completions", lambda *_: None)
        run(tmp_path / "whole", **options)
        found, expected = (rows(tmp_path / name)[0] for name in ("run", "whole"))
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("config", "drops"),
    [
        (GPT2Config(vocab_size=260, n_embd=32, n_layer=1, n_head=4), True),
        (LlamaConfig(**SIZES, intermediate_size=32, num_attention_heads=4, attention_dropout=0.1), True),
        (LlamaConfig(**SIZES, intermediate_size=32, num_attention_heads=4), False),
    ],
    ids=["layers", "code", "none"],
)
def test_with_dropout_of_the_model_each_row_drops_its_own(tmp_path, monkeypatch, config, drops):
    torch.manual_seed(0)
    called = []
    monkeypatch.setattr(opsd_trainer, "states_of_completions", lambda *given: called.append(given))
    options = {"steps": 1, "item": grouped_item(4), "num_rollouts": 4, "batch_size": 1, "micro_batch_size": 4}
    run(tmp_path, model=AutoModelForCausalLM.from_config(config), **options)
    assert bool(called) != drops
