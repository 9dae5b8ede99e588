"""A model that a later stage could not read, sample from or save is refused by name, without its weights."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from neuron_opsd.config import Config
from neuron_opsd.early_checks.machine import bytes_written, check_output, check_room
from neuron_opsd.early_checks.model import check_model
from neuron_opsd.errors import ConfigError, ModelError, RunFolderError
from neuron_opsd.model.device import device_of
from neuron_opsd.model.skeleton import build_skeleton
from neurons.tiny_models import FAMILIES, LAYERS, WIDTH

TINY = FAMILIES["llama"]
HYBRID = {**TINY, "layer_types": ["conv", "full_attention"]}


def model_of(folder: Path, family: str, **options) -> str:
    """A folder with a configuration and no weights worth the name: nothing here reads them."""
    AutoConfig.for_model(family, **{**FAMILIES.get(family, TINY), **options}).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def config_of(name: str, *, dtype: str = "float32", **sections) -> Config:
    model = {"name": name, "dtype": dtype}
    return Config.model_validate({"model": model, "questions": {"path": "any"}} | sections)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_dense_family_passes(family: str, tmp_path: Path) -> None:
    activation = {"neurons": {"activation": "gate_up"}} if family in ("bloom",) else {}
    check_model(config_of(model_of(tmp_path, family), **activation))


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        ("lfm2", HYBRID, "'lfm2' has 1 of 2 layers without attention"),
        ("mixtral", {"num_local_experts": 4}, "mixture of 4 experts"),
        ("qwen3_moe", {"num_experts": 8}, "mixture of 8 experts"),
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 61}, "without attention"),
        ("clip", {}, "Model type 'clip'"),
    ],
)
def test_others_are_refused_by_name(family, options, expected, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=expected):
        check_model(config_of(model_of(tmp_path, family, **options)))


def test_a_gate_that_no_module_computes(tmp_path: Path) -> None:
    name = model_of(tmp_path, "apertus")
    with pytest.raises(ConfigError, match=r"neurons\.activation=gate_up"):
        check_model(config_of(name))
    check_model(config_of(name, neurons={"activation": "gate_up"}))


@pytest.mark.parametrize(
    ("neurons", "expected"),
    [
        ({"overlap_size": LAYERS * WIDTH}, f"this model has {LAYERS * WIDTH} neurons in all layers"),
        ({"per_token_entries": 2 * WIDTH}, f"{WIDTH} neurons in a layer"),
        ({"num_entries": 10**6}, "every set would be the same"),
    ],
)
def test_sets_that_would_hold_every_neuron(neurons, expected, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        check_model(config_of(model_of(tmp_path, "llama"), neurons=neurons))


def test_a_recipe_that_reads_no_neurons_needs_no_gate(tmp_path: Path) -> None:
    check_model(config_of(model_of(tmp_path, "apertus"), training={"objective": "none"}))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    name = model_of(tmp_path, "llama")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no weights in safetensors format"):
        check_model(config_of(name))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="lacks 1 files of its weights, such as model-00002"):
        check_model(config_of(name))


def test_a_generation_configuration_that_cannot_be_loaded(tmp_path: Path) -> None:
    name = model_of(tmp_path, "llama")
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 0}')
    with pytest.raises(
        ModelError, match=r"generation_config.json of .* `max_new_tokens` must be greater than 0"
    ):
        check_model(config_of(name))


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file is a file"):
        check_output(tmp_path / "file" / "run")
    with pytest.raises(RunFolderError, match="Cannot write to /proc"):
        check_output(Path("/proc/run"))
    check_output(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="Nothing in it was changed"):
        check_output(tmp_path / "mine")


def test_code_that_needs_contents_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_contents(self: LlamaForCausalLM, config: LlamaConfig) -> None:
        torch.empty(1, device="meta").item()

    name = model_of(tmp_path, "llama")
    monkeypatch.setattr(LlamaForCausalLM, "__init__", needs_contents)
    assert check_model(config_of(name)) is None
    with pytest.raises(ModelError, match="cannot be built without its weights"):
        build_skeleton(config_of(name).model)


def test_four_bits_are_of_no_matter_before_training(tmp_path: Path) -> None:
    training = {"quantization": "4bit", "save": "adapter"}
    config = config_of(model_of(tmp_path, "llama"), training=training)
    with pytest.raises(ModelError, match="4bit"):
        check_model(config)
    check_model(config, until="contexts")


def test_devices_on_which_nothing_runs() -> None:
    settings = config_of("any").model.model_copy(update={"device": "mps"})
    with pytest.raises(ModelError, match=r"float64.*model\.device=cpu"):
        device_of(settings)


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(model_of(tmp_path / "model", "llama"))
    needed = bytes_written(config, build_skeleton(config.model))
    usage = type("Usage", (), {"free": needed - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    check_room(
        tmp_path / "run", config, build_skeleton(config.model)
    )  # a disk that lacks so little says so when it is full
    monkeypatch.setattr("neuron_opsd.early_checks.machine.LITTLE", 0)
    with pytest.raises(RunFolderError, match="GB free, and training writes about"):
        check_room(tmp_path / "run", config, build_skeleton(config.model))
    usage.free = needed
    check_room(tmp_path / "run", config, build_skeleton(config.model))
    usage.free = needed - 1  # and a byte that training replaces, or one that it keeps
    for place, refused in (("model", True), ("model.previous", True), ("training", False)):
        (tmp_path / "run" / place).mkdir(parents=True)
        (tmp_path / "run" / place / "weights").write_bytes(b"1")
        with pytest.raises(RunFolderError) if refused else nullcontext():
            check_room(tmp_path / "run", config, build_skeleton(config.model))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_training_writes_is_float32(tmp_path: Path, dtype: str) -> None:
    """The model, the adapter, and three checkpoints: two that are kept and the one being written."""
    name = model_of(tmp_path / "model", "llama")

    def written(**training) -> tuple[int, int]:
        config = config_of(name, dtype=dtype, training=training)
        num_weights = sum(weight.numel() for weight in build_skeleton(config.model).parameters())
        return bytes_written(config, build_skeleton(config.model)), num_weights

    assert written(method="full")[0] == (4 + 3 * 16) * written(method="full")[1]
    adapter, num_weights = written(save="adapter")
    assert written()[0] == adapter + 4 * num_weights
