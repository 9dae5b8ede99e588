"""The published model in the hands of others: plain transformers, PEFT, and our own loader."""

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from training_runs import TOKENIZER, run, settings
from transformers import AutoModelForCausalLM

from helpers import build_tiny_model
from neuron_opsd.config import ModelSettings, TrainingSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.load import load_model
from neuron_opsd.training.train import publish, trainable

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(IDS).logits


@pytest.fixture
def base_folder(tmp_path):
    build_tiny_model().save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_adapter_and_merged_model_load_in_transformers_and_peft(tmp_path, base_folder):
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    student = run(tmp_path / "run", steps=2, model=base, method="lora", learning_rate=0.05)
    expected = logits(student)
    assert (expected - logits(build_tiny_model())).abs().max() > 1e-2

    publish(student, TOKENIZER, tmp_path / "adapter", save="adapter", model_card="a card")
    published = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_folder), tmp_path / "adapter"
    )
    torch.testing.assert_close(logits(published), expected)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")), expected)
    ours, tokenizer = load_model(ModelSettings(name=str(tmp_path / "adapter"), dtype="float32", device="cpu"))
    torch.testing.assert_close(logits(ours), expected)
    assert tokenizer.chat_template == TOKENIZER.chat_template

    publish(student, TOKENIZER, tmp_path / "merged", save="merged", model_card="a card")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_adapters_sit_on_all_linear_layers_but_the_head():
    student = trainable(build_tiny_model(), settings(method="lora"), seed=0)
    linear = {
        name for name, module in build_tiny_model().named_modules() if isinstance(module, torch.nn.Linear)
    }
    adapted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, _ in student.named_parameters()
        if name.endswith(".lora_A.default.weight")
    }
    assert adapted == linear - {"lm_head"}
    assert len(adapted) == 14


def test_a_model_object_without_a_name_is_trained(tmp_path):
    model = build_tiny_model()
    assert model.name_or_path == ""
    assert run(tmp_path, steps=1, model=model) is model


def test_four_bits_need_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(
        ModelError, match=r"training\.quantization is 4bit, which needs a GPU.*quantization=none"
    ):
        load_model(ModelSettings(name="embedded:smollm2-135m"), quantization="4bit")


@pytest.mark.parametrize("changes", [{"method": "full", "save": "adapter"}, {"save": "merged"}])
def test_four_bits_carry_an_adapter_and_nothing_else(changes):
    with pytest.raises(ValidationError, match=r"training\.quantization is 4bit, but training\."):
        TrainingSettings(quantization="4bit", **changes)
    assert TrainingSettings(quantization="4bit", save="adapter").quantization == "4bit"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes' 4-bit layers are checked on a GPU")
def test_an_adapter_on_a_four_bit_base_is_trained(tmp_path, base_folder):
    pytest.importorskip("bitsandbytes")
    options = ModelSettings(name=str(base_folder), dtype="bfloat16")
    model, _ = load_model(options, quantization="4bit")
    student = run(tmp_path / "run", steps=2, model=model, method="lora", learning_rate=0.05)
    assert student.base_model.model.model.layers[0].mlp.down_proj.base_layer.weight.dtype == torch.uint8
    publish(student, TOKENIZER, tmp_path / "adapter", save="adapter", model_card="a card")
    ours, _ = load_model(ModelSettings(name=str(tmp_path / "adapter"), dtype="float32"))
    assert torch.isfinite(ours(IDS.to(ours.device)).logits).all()
