"""Defaults that depend on the model or the machine, and a single process that stays on its device."""

from importlib import resources
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, TrainingArguments

from helpers import CHATML, SMOLLM3, build_tiny_tokenizer
from neuron_opsd.config import Config, ModelSettings, TrainingSettings, check_config, load_config
from neuron_opsd.model import defaults, device
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.defaults import resolve
from neuron_opsd.model.load import load_model
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.training.train import training_arguments

OPENS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def template(name: str) -> str:
    """A published template, as TRL ships it."""
    return (resources.files(pytest.importorskip("trl")) / "chat_templates" / f"{name}.jinja").read_text()


def does_think(text: str, *, system: str | None = None, **template_args) -> bool:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = text
    return ChatEncoder(tokenizer, template_args=template_args).thinks(system=system)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3", True),  # has a switch, on by default
        ("qwen3_5_think", True),  # opens a block
        ("qwen3_5_nothink", False),  # closes one
        ("deepseek_r1_distill", True),
        ("glm4moe", True),
        ("gptoss", True),  # no switch, and its own marks
        ("gemma4", False),  # has a switch, off by default
        ("qwen3_instruct_2507", False),
        ("qwen2_5", False),
        ("llama3_2", False),
    ],
)
def test_published_templates(name, expected):
    assert does_think(template(name)) is expected


def test_the_switch_turns_thinking_off_and_on():
    assert not does_think(template("qwen3"), enable_thinking=False)
    assert does_think(template("gemma4"), enable_thinking=True)


def test_smollm3_is_switched_in_its_system_message():
    assert does_think(SMOLLM3)
    assert not does_think(SMOLLM3, system="/no_think")
    assert not does_think(SMOLLM3, enable_thinking=False)


@pytest.fixture
def config(tmp_path: Path):
    """Makes settings of a model without weights."""

    def make(*overrides: str, chat_template: str = CHATML) -> Config:
        tokenizer = build_tiny_tokenizer()
        tokenizer.chat_template = chat_template
        tokenizer.save_pretrained(tmp_path / "model")
        LlamaConfig().save_pretrained(tmp_path / "model")
        values = {"model.name": str(tmp_path / "model"), "questions.path": "q.jsonl", "model.device": "cpu"}
        return load_config("neuron_opsd", overrides=overrides, values=values)

    return make


def limits(config: Config) -> list[int]:
    return [getattr(config, name).max_new_tokens for name in ("rollouts", "training", "evaluation")]


def test_a_thinking_template_raises_the_limits_that_nobody_set(config):
    assert limits(resolve(config())) == [2048, 2048, 2048]
    found = resolve(config("training.max_new_tokens=512", chat_template=OPENS))
    assert limits(found) == [8192, 512, 8192]
    # Written out, they hold: another template does not change a run that has begun.
    assert limits(check_config(found.as_tree())) == [8192, 512, 8192]


def test_limits_that_wait_for_the_model_are_not_written(config, tmp_path):
    RunFolder(tmp_path).write_config(config("evaluation.max_new_tokens=512", chat_template=OPENS))
    assert limits(resolve(RunFolder(tmp_path).config())) == [8192, 8192, 512]


@pytest.mark.parametrize(
    ("units", "expected"), [("avx512_bf16", "bfloat16"), ("amx_bf16", "bfloat16"), ("avx2", "float32")]
)
def test_auto_is_the_dtype_that_the_processor_computes(config, monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {units: True})
    found = resolve(config())
    assert (found.model.dtype, found.training.dtype) == (expected, expected)
    assert resolve(config("training.method=full")).training.dtype == "float32"
    assert resolve(config("model.dtype=float16")).training.dtype == "float32"
    assert resolve(config("model.dtype=float32")).model.dtype == "float32"


def test_a_gpu_gets_bfloat16_checkpointing_and_autocast(config, monkeypatch):
    monkeypatch.setattr(defaults, "device_of", lambda settings: torch.device("cuda", 0))
    monkeypatch.setattr(device, "device_of", lambda settings: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kwargs: True)
    found = resolve(config())
    assert (found.model.dtype, found.training.trainer) == (
        "bfloat16",
        {"gradient_checkpointing": True, "bf16": True},
    )
    own = resolve(config("training.trainer={gradient_checkpointing: false}", "model.dtype=float32"))
    assert own.training.trainer == {"gradient_checkpointing": False}


def test_one_process_stays_on_its_gpu_and_is_not_split_over_those_it_sees(monkeypatch, tmp_path):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    wanted = torch.device("cuda", 1)
    arguments = training_arguments(TrainingSettings(), folder=tmp_path, num_steps=2, seed=0, device=wanted)
    assert TrainingArguments(output_dir=str(tmp_path)).n_gpu == 2  # what transformers would do
    assert (arguments.n_gpu, arguments.device, chosen) == (1, wanted, [wanted])


def test_settings_of_attention_and_placement_reach_the_model(tmp_path, tiny_model, tiny_tokenizer):
    tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    settings = ModelSettings(name=str(tmp_path), attn_implementation="eager", device_map="auto")
    model, _ = load_model(settings)
    assert model.config._attn_implementation == "eager"
    assert model.device.type == "cpu"
