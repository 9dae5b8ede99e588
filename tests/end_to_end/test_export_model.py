"""The trained model of a run in other programs' forms, and what is refused."""

import shutil
from pathlib import Path

import gguf
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from neuron_opsd.cli import app
from neuron_opsd.errors import ModelError
from neuron_opsd.model.gguf_write import FAMILIES

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def invoke(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(IDS).logits


def test_a_merged_run_is_exported_in_every_form(whole_run, tiny_model_folder: Path, tmp_path: Path) -> None:
    run = whole_run.folder
    for form in ("merged", "adapter"):
        assert str(tmp_path / form) in invoke("export", run, "--format", form, "--output", tmp_path / form)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    assert not torch.equal(logits(merged), logits(base))
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(adapted), logits(merged), rtol=1e-4, atol=1e-4)
    assert not list((tmp_path / "adapter").glob("model*"))
    assert "library_name: peft" in (tmp_path / "adapter/README.md").read_text()

    said = invoke(
        "export", run, "--format", "gguf", "--output", tmp_path / "out/My it.gguf", "--weights", "q8_0"
    )
    assert f"ollama create my-it -f {tmp_path / 'out/Modelfile'}" in said
    assert f"lms import '{tmp_path / 'out/My it.gguf'}'" in said
    assert "LM Studio" in said
    assert "FROM ./My it.gguf" in (tmp_path / "out/Modelfile").read_text()
    template = (run / "model/chat_template.jinja").read_text()
    reader = gguf.GGUFReader(tmp_path / "out/My it.gguf")
    assert reader.fields["tokenizer.chat_template"].contents() == template
    invoke("export", run, "--format", "gguf", "--output", tmp_path / "out/My it.gguf")  # ours is replaced
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "My it.gguf"]
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert str(tiny_model_folder).encode() not in file.read_bytes()  # nobody else has that folder


def test_an_adapter_is_merged_for_programs_that_want_a_whole_model(whole_run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run.folder, run)
    command = [*whole_run.command, "--output", run, "--until", "train", "training.save=adapter"]
    invoke(*command)
    assert not list((run / "model").glob("model*"))
    invoke("export", run, "--format", "merged", "--output", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(whole_run.folder / "model")
    torch.testing.assert_close(logits(merged), logits(whole), rtol=1e-4, atol=1e-4)
    assert "library_name: transformers" in (tmp_path / "merged/README.md").read_text()
    invoke("export", run, "--format", "gguf", "--output", tmp_path / "model.gguf")
    invoke("export", whole_run.folder, "--format", "gguf", "--output", tmp_path / "whole" / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == (tmp_path / "whole" / "model.gguf").read_bytes()


def test_what_cannot_be_exported_is_refused(whole_run, tmp_path: Path) -> None:
    run, file = whole_run.folder, tmp_path / "model.gguf"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/Modelfile").write_text("FROM mine\n")
    wrong = {
        ("--format", "gguf", "--output", tmp_path / "model"): "End its name in .gguf",
        ("--format", "gguf", "--output", file, "--weights", "q4"): "f32, f16, bf16, q8_0",
        ("--format", "gguf", "--output", tmp_path / "taken/model.gguf"): "Name a file in another folder",
        ("--format", "merged", "--output", tmp_path / "full"): "Name a new folder",
        ("--format", "merged", "--output", run / "model/whole"): "Name a place outside",
        ("--format", "gguf", "--output", run / "model/model.gguf"): "Name a place outside",
        ("--format", "trl", "--output", run / "rollouts/rows.jsonl"): "Name a place outside",
        ("--format", "merged", "--output", tmp_path / "new", "--weights", "f16"): "for --format gguf alone",
    }
    for words, message in wrong.items():
        with pytest.raises(Exception, match=message):
            invoke("export", run, *words)
    (tmp_path / "run").mkdir()
    for name in ("neuron_opsd.json", "config.yaml"):
        shutil.copy(run / name, tmp_path / "run" / name)
    with pytest.raises(Exception, match=r"has no trained model: training is not finished.*neuron-opsd run"):
        invoke("export", tmp_path / "run", "--format", "merged", "--output", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "run", "taken"]


def test_another_family_is_refused_before_anything_is_written(
    whole_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FAMILIES, "llama")
    with pytest.raises(ModelError, match=r"family llama .*: qwen2, qwen3.*--format merged"):
        invoke("export", whole_run.folder, "--format", "gguf", "--output", tmp_path / "out/model.gguf")
    assert not (tmp_path / "out").exists()


def test_a_whole_model_is_exported_though_its_base_is_gone(whole_run, tmp_path: Path) -> None:
    run = shutil.copytree(whole_run.folder, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    line = next(line for line in config.splitlines() if line.startswith("  name: /"))
    (run / "config.yaml").write_text(config.replace(line, "  name: /gone/base"))
    for name, output in (("gguf", "model.gguf"), ("merged", "merged")):
        assert output in invoke("export", run, "--format", name, "--output", tmp_path / output)
