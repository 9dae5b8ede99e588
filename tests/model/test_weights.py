"""Models whose files are damaged are refused by name, before any work; those that are whole are not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.load import check_weights, load_model, load_model_config, load_tokenizer

Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_OPSD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=[False, True], ids=["own head", "tied"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    build_tiny_model(tied=request.param).save_pretrained(tmp_path / "model")
    build_tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path):
    return load_model(ModelSettings(name=str(folder), device="cpu"))[0]


def change(folder: Path, change: Callable[[Weights], Weights], file: str = "model.safetensors") -> None:
    save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def with_value(value: float) -> Callable[[Weights], Weights]:
    def put(weights: Weights) -> Weights:
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return weights

    return put


HARMS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "no layer 1": (without(".layers.1."), "lacks model.layers.1."),
    "no norm": (without("model.norm"), r"lacks model.norm.weight \(1 weight\)"),
    "no embedding": (without("embed_tokens"), "lacks .*model.embed_tokens.weight"),
    "one matrix": (without("layers.0.self_attn.q_proj"), "lacks model.layers.0.self_attn.q_proj.weight"),
    "nothing": (lambda weights: {}, "lacks .* and "),
    "another shape": (lambda weights: weights | {"model.norm.weight": torch.ones(3)}, "has in another shape"),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_weights_that_are_not_whole_are_refused_before_and_at_loading(folder: Path, harm: str) -> None:
    edit, says = HARMS[harm]
    change(folder, edit)
    for attempt in (lambda: check_weights(ModelSettings(name=str(folder))), lambda: load(folder)):
        with pytest.raises(ModelError, match=says) as refused:
            attempt()
        assert str(folder) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x08" + b"\0" * 7 + b"notJSON!", None])
def test_files_of_an_interrupted_download_are_refused(folder: Path, content: bytes | None) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    for attempt in (lambda: check_weights(ModelSettings(name=str(folder))), lambda: load(folder)):
        with pytest.raises(ModelError, match="cannot be loaded"):
            attempt()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_each_time(folder: Path, value: float) -> None:
    change(folder, with_value(value))
    for _ in range(2):
        with pytest.raises(
            ModelError, match=r"model\.layers.1.mlp.up_proj.weight holds numbers that are not"
        ):
            load(folder)


def test_weights_too_large_for_the_dtype_are_refused(folder: Path) -> None:
    change(folder, with_value(1e6))
    load(folder)
    with pytest.raises(ModelError, match=r"not finite as torch\.float16"):
        load_model(ModelSettings(name=str(folder), device="cpu", dtype="float16"))


def test_the_look_at_values_is_remembered_for_these_weights_alone(folder: Path, tmp_path: Path) -> None:
    load(folder)
    load(folder)
    assert len(list((tmp_path / "cache" / "finite").iterdir())) == 1
    change(folder, with_value(float("nan")))
    with pytest.raises(ModelError):
        load(folder)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"lm_head.weight": torch.ones(260, 32)},  # beside a tied embedding it is read, or tied over
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},  # a buffer of old releases
    ],
)
def test_whole_models_are_taken(folder: Path, more: Weights) -> None:
    change(folder, lambda weights: weights | more)
    check_weights(ModelSettings(name=str(folder)))
    load(folder)


def another_layer(weights: Weights) -> Weights:
    return weights | {k.replace("s.1.", "s.2."): v.clone() for k, v in weights.items() if "s.1." in k}


EXTRAS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "a value head": (lambda weights: weights | {"v_head.summary.weight": torch.ones(1, 32)}, "v_head.summary.weight"),
    "a layer that predicts further tokens": (another_layer, "model.layers.2."),
}  # fmt: skip


@pytest.mark.parametrize("extra", EXTRAS)
def test_weights_that_are_not_asked_for_are_named_once_and_left_out(
    folder: Path, extra: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = load(folder).state_dict()
    edit, named = EXTRAS[extra]
    change(folder, edit)
    check_weights(ModelSettings(name=str(folder)))
    loaded = load(folder).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in loaded.items())
    said = [record.getMessage() for record in caplog.records if "also holds" in record.getMessage()]
    assert len(said) == 1
    assert named in said[0]


ADAPTER_HARMS = {
    "whole": (lambda weights: weights, ""),
    "one matrix less": (
        without("layers.0.mlp.down_proj.lora_B"),
        "lacks model.layers.0.mlp.down_proj.lora_B",
    ),
    "empty": (lambda weights: {}, "lacks model.layers.0"),
    "another rank": (
        lambda weights: {k: v[:1].clone() if "lora_A" in k else v for k, v in weights.items()},
        "has in another shape",
    ),
    "of a deeper model": (
        lambda w: w | {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(2, 32)},
        "holds parts of an adapter for layers",
    ),
    "its base lacks a layer": (None, "lacks model.layers.1."),
}


@pytest.mark.parametrize("harm", ADAPTER_HARMS)
def test_adapters_that_are_not_whole_are_refused(tmp_path: Path, harm: str) -> None:
    edit, says = ADAPTER_HARMS[harm]
    model, base, folder = build_tiny_model(), tmp_path / "base", tmp_path / "adapter"
    model.save_pretrained(base)
    model.config._name_or_path = model.name_or_path = str(base)
    get_peft_model(
        model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    ).save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    if edit is None:
        change(base, without(".layers.1."))
    else:
        change(folder, edit, "adapter_model.safetensors")
    if not says:
        check_weights(ModelSettings(name=str(folder)))
        load(folder)
        return
    with pytest.raises(ModelError, match=says):
        check_weights(ModelSettings(name=str(folder)))


def look(folder: Path) -> None:
    """What is done before any work."""
    settings = ModelSettings(name=str(folder))
    load_model_config(settings)
    load_tokenizer(settings)
    check_weights(settings)


CONFIGS: list[dict] = [
    {"num_attention_heads": 0}, {"num_attention_heads": "four"}, {"num_hidden_layers": -1}, {"hidden_size": 0},
    {"hidden_size": 31}, {"num_key_value_heads": 0}, {"num_key_value_heads": 3}, {"vocab_size": -5},
    {"vocab_size": "x"},
    {"hidden_act": "none such"}, {"model_type": "none such"}, {"model_type": 7}, {"num_hidden_layers": 0},
    {"hidden_size": None}, {"intermediate_size": "48"}, {"rope_parameters": 3}, {"rms_norm_eps": "small"},
]  # fmt: skip


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_configurations_that_make_no_model_are_refused(folder: Path, values: dict) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(ModelError):
        look(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '{"a": ' * 5000, "\x00", '"text"'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_that_are_no_json_are_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ModelError):
        look(folder)
