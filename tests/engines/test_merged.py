"""An adapter merged while sampling: the same completions, and not a bit left behind."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import build_tiny_model
from neuron_opsd.engines import merged
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine

REQUESTS = [Request(prompt_ids=(5, 6, 7), seeds=(1, 2)), Request(prompt_ids=(9,), seeds=(3,))]
SAMPLING = Sampling(temperature=1.0, max_new_tokens=20)


def student(dtype: torch.dtype = torch.float32):
    """With an adapter that changes what is sampled."""
    model = get_peft_model(
        build_tiny_model().to(dtype), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    return model.eval()


def is_merged(model) -> list[bool]:
    return [module.merged for module in model.modules() if isinstance(module, merged.LoraLinear)]


def test_completions_are_those_of_the_adapter_apart(tiny_tokenizer, monkeypatch):
    model = student()
    together = dict(HFEngine(model, tiny_tokenizer).generate(REQUESTS, SAMPLING))
    monkeypatch.setattr(merged, "free_memory", lambda device: None)  # no room for both forms
    apart = dict(HFEngine(model, tiny_tokenizer).generate(REQUESTS, SAMPLING))
    for i in (0, 1):
        for first, second in zip(together[i], apart[i], strict=True):
            assert first.token_ids == second.token_ids
            assert first.log_probs == pytest.approx(second.log_probs, abs=1e-4)
    with model.disable_adapter():
        base = dict(HFEngine(model, tiny_tokenizer).generate(REQUESTS, SAMPLING))
    plain = dict(HFEngine(build_tiny_model(), tiny_tokenizer).generate(REQUESTS, SAMPLING))
    assert base == plain != together


def test_merged_or_apart_is_decided_when_the_engine_is_made(tiny_tokenizer, monkeypatch):
    engine = HFEngine(model := student(), tiny_tokenizer)
    monkeypatch.setattr(merged, "free_memory", lambda device: None)
    running = engine.generate(REQUESTS, SAMPLING)
    next(running)
    assert all(is_merged(model))
    running.close()
    later = HFEngine(model, tiny_tokenizer)
    monkeypatch.undo()
    running = later.generate(REQUESTS, SAMPLING)
    next(running)
    assert not any(is_merged(model))
    running.close()


def test_no_bit_is_left_behind_also_when_sampling_is_given_up(tiny_tokenizer):
    model = student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    running = HFEngine(model, tiny_tokenizer).generate(REQUESTS, SAMPLING)
    next(running)
    assert all(is_merged(model))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) == len(is_merged(model)) == 14
    running.close()
    assert not any(is_merged(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bfloat16_weights_are_not_merged():
    with merged.merged_adapter(model := student(torch.bfloat16)):
        assert not any(is_merged(model))
