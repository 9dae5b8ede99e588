"""A model folder in which one thing is odd or broken is refused before any work, in words that name it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from early_checks.test_early_model import config_of
from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.early_checks.model import check_model
from neuron_opsd.errors import ModelError
from neuron_opsd.model.load import check_weights, configured_end_ids, load_tokenizer

Change = Callable[[Path], object]


def setting(file: str, **entries: Any) -> Change:
    def change(folder: Path) -> None:
        tree = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(tree | entries))

    return change


def config(**entries: Any) -> Change:
    return setting("config.json", **entries)


def text(file: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def instead(file: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        make(folder / file)

    return change


def weights(name: str, value: torch.Tensor | None) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(
            tensors if value is None else tensors | {name: value},
            folder / "model.safetensors",
            {"format": "pt"},
        )

    return change


def sharded(index: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def template(value: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        setting("tokenizer_config.json", chat_template=value)(folder)

    return change


NORM = "model.norm.weight"
SIZE = "must be a whole number from 1 to"
NO_FILE = "is a folder, a pipe, a device or a broken link, not a file"
CASES: dict[str, tuple[Change, str]] = {
    # sizes that transformers takes, and that take for ever or fail somewhere else
    "layers, negative": (config(num_hidden_layers=-2), f"num_hidden_layers is -2. It {SIZE} 2,000"),
    "layers, none": (config(num_hidden_layers=0), f"num_hidden_layers is 0. It {SIZE}"),
    "layers, a billion": (config(num_hidden_layers=10**9), f"num_hidden_layers is 1000000000. It {SIZE}"),
    "width, a billion": (config(hidden_size=10**9), "hidden_size is 1000000000"),
    "width, beyond 64 bits": (config(hidden_size=10**30), f"It {SIZE} 1,000,000"),
    "width, negative": (config(hidden_size=-32), "hidden_size is -32"),
    "width, text": (config(hidden_size="32"), "hidden_size.* expected int, got str"),
    "FFN, nothing": (config(intermediate_size=0), "intermediate_size is 0"),
    "heads, none": (config(num_attention_heads=0), "cannot be loaded|num_attention_heads is 0"),
    "heads, negative": (config(num_attention_heads=-4), "num_attention_heads is -4"),
    "key heads, none": (config(num_key_value_heads=0), "num_key_value_heads is 0"),
    "head, nothing": (config(head_dim=0), "head_dim is 0"),
    "vocabulary, none": (config(vocab_size=0), "vocab_size is 0"),
    "vocabulary, huge": (config(vocab_size=10**12), "vocab_size is 1000000000000"),
    "context, none": (config(max_position_embeddings=0), "max_position_embeddings is 0"),
    "context, endless": (config(max_position_embeddings=10**30), f"It {SIZE} 1,000,000,000"),
    # other entries
    "an encoder": (config(is_encoder_decoder=True), "is an encoder-decoder"),
    "padding beyond the vocabulary": (config(pad_token_id=10**6), "cannot be built.*[Pp]adding_idx"),
    "text_config, text": (config(text_config="x"), "text_config is 'x', which is not an object"),
    "activation": (config(hidden_act="nonsense"), "cannot be built.*nonsense"),
    "no JSON": (text("config.json", "{"), "cannot be loaded"),
    "a list": (text("config.json", "[]"), "cannot be loaded"),
    # generation_config.json
    "generation, no JSON": (
        text("generation_config.json", "{"),
        "generation_config.json of .* cannot be loaded",
    ),
    "generation, nothing": (
        text("generation_config.json", ""),
        "generation_config.json of .* cannot be loaded",
    ),
    "generation, bytes": (
        text("generation_config.json", b"\xff\0"),
        "generation_config.json of .* cannot be loaded",
    ),
    "generation, a list": (
        text("generation_config.json", "[]"),
        "generation_config.json of .* cannot be loaded",
    ),
    "generation, deep": (
        text("generation_config.json", "[" * 10**5),
        "generation_config.json of .* recursion",
    ),
    "end, a word": (setting("generation_config.json", eos_token_id="x"), "eos_token_id is 'x'. It must be"),
    "end, words": (
        setting("generation_config.json", eos_token_id=["x"]),
        "eos_token_id is .'x'.. It must be",
    ),
    "end, negative": (setting("generation_config.json", eos_token_id=-5), "eos_token_id is -5"),
    "end, an object": (
        setting("generation_config.json", eos_token_id={"a": 1}),
        "eos_token_id is .'a': 1.|cannot",
    ),
    # weights
    "empty": (text("model.safetensors", ""), "cannot be loaded.*header too small"),
    "a page": (text("model.safetensors", "<!DOCTYPE html><html></html>"), "cannot be loaded"),
    "a pointer": (
        text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        "cannot be loaded",
    ),
    "another shape": (
        weights(NORM, torch.zeros(7)),
        r"in another shape model.norm.weight \(\[7\] in the file, \[32\]",
    ),
    "a layer less": (weights("model.layers.1.mlp.up_proj.weight", None), "lacks model.layers.1.mlp.up_proj"),
    "index, a list": (sharded([]), "cannot be loaded|no file"),
    "index, list of names": (sharded({"weight_map": ["a"]}), "weight_map must give the name of a file"),
    "index, numbers": (sharded({"weight_map": {NORM: 1}}), "weight_map must give the name of a file"),
    "index, outside": (
        sharded({"weight_map": {NORM: "../x.safetensors"}}),
        "weight_map must give the name of a file",
    ),
    "index, a shard less": (sharded({"weight_map": {NORM: "x.safetensors"}}), "lacks 1 files of its weights"),
    # tokenizer
    "longest prompt, text": (
        setting("tokenizer_config.json", model_max_length="x"),
        "model_max_length is 'x'",
    ),
    "longest prompt, negative": (
        setting("tokenizer_config.json", model_max_length=-4),
        "model_max_length is -4",
    ),
    "tokenizer, gone": (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded"),
    "tokenizer, cut": (text("tokenizer.json", '{"version": "1.0", '), "cannot be loaded"),
    "template, a number": (template(3), "is 3, which is not text"),
    "template, two": (
        template([{"name": "a", "template": "x"}]),
        "templates a, and none of them is called default",
    ),
    # no files
    **{
        f"{file}, {what}": (instead(file, make), NO_FILE)
        for what, make in {
            "a folder": Path.mkdir,
            "a pipe": os.mkfifo,
            "endless": lambda path: path.symlink_to("/dev/zero"),
            "nowhere": lambda path: path.symlink_to("/nowhere"),
        }.items()
        for file in (
            "model.safetensors",
            "generation_config.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        )
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build_tiny_model().save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


def check(folder: Path) -> None:
    settings = config_of(str(folder))
    check_model(settings)
    check_weights(settings.model)
    configured_end_ids(settings.model, load_tokenizer(settings.model))


def test_a_whole_folder_passes(whole: Path) -> None:
    check(whole)


@pytest.mark.parametrize("case", CASES)
def test_what_is_odd_is_named(case: str, whole: Path, tmp_path: Path) -> None:
    change, expected = CASES[case]
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    change(folder)
    with pytest.raises(ModelError, match=f"{folder}.*{expected}|{expected}") as error:
        check(folder)
    assert str(folder) in str(error.value)
