"""What a stranger with the card alone can do: use the model as it was trained, under a licence that is named."""

import ast
import dataclasses
from pathlib import Path

import gguf
import pytest
import yaml

from neuron_opsd.model.licence import licence_of
from neuron_opsd.report import ReportInputs, model_card

ADAPTER = {"method": "lora", "save": "adapter", "lora": {"rank": 8}}


def inputs_of(name: str, training: dict | None = None, **others) -> ReportInputs:
    return ReportInputs(config={"model": {"name": name}, "training": training or {}}, **others)


def blocks(card: str, language: str) -> list[str]:
    return [part.split("\n```")[0] for part in card.split(f"```{language}\n")[1:]]


def test_a_merged_model_is_used_by_three_programs() -> None:
    card = model_card(inputs_of("owner/base", template_args={"enable_thinking": False}))
    (python,) = blocks(card, "python")
    ast.parse(python)
    assert "enable_thinking=False" in python
    assert "peft" not in python
    vllm, ollama = blocks(card, "bash")
    assert vllm == "vllm serve MODEL --default-chat-template-kwargs '{\"enable_thinking\": false}'"
    assert "neuron-opsd export RUN --format gguf --output model.gguf" in ollama


def test_an_adapter_goes_on_its_base() -> None:
    (python,) = blocks(model_card(inputs_of("owner/base", ADAPTER)), "python")
    ast.parse(python)
    assert 'AutoModelForCausalLM.from_pretrained("owner/base"' in python
    card = model_card(inputs_of("/home/me/folder", ADAPTER))
    assert "/home/me" not in card
    assert "BASE, folder: a folder that is not on the hub" in card
    assert blocks(card, "bash")[0] == (
        "vllm serve BASE --enable-lora --max-lora-rank 8 --lora-modules trained=MODEL"
    )


def test_the_licence_is_that_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: llama3\ntags: [a]\n---\n# Base\n")
    licence = licence_of(str(tmp_path))
    assert licence == {"license": "other", "license_name": "llama3"}
    card = model_card(dataclasses.replace(inputs_of("owner/base"), licence=licence))
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "llama3")
    assert "under the licence of its base: other, llama3" in card
    assert "which is not known here" in model_card(inputs_of("owner/base"))
    assert licence_of("embedded:smollm2-135m") == {"license": "apache-2.0"}
    assert [licence_of(name) for name in ("owner/no-such-model", "/gone/folder", "./gone")] == [{}] * 3


@pytest.mark.parametrize(
    "text", ["", "# Base", "---\n- a\n---\n", "---\n{: [\n---\n", "---\nlicense: 3\n---\n"]
)
def test_a_card_without_a_licence_names_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_of(str(tmp_path)) == {}


def test_a_gguf_file_names_its_licence(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_license("mit")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    assert licence_of(str(tmp_path / "m.gguf")) == {"license": "mit"}
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    assert licence_of(str(tmp_path / "bad.gguf")) == {}
