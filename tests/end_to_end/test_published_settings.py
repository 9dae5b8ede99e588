"""A base that transformers would not save is published, and its card and template say how the model was asked."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from early_checks import templates
from neuron_opsd import cli


def test_a_base_that_cannot_be_saved_is_published(
    command: list[str], tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_folder, base)
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps(settings | {"temperature": 0.7, "top_p": 0.9}))
    (tmp_path / "qwen3.jinja").write_text(templates.QWEN3)
    command[command.index("--model") + 1] = str(base)
    given = [
        f"model.chat_template={tmp_path / 'qwen3.jinja'}",
        "model.template_args={enable_thinking: false}",
    ]
    line = [
        *command,
        "--output",
        str(tmp_path / "run"),
        "--until",
        "train",
        "preflight.num_questions=0",
        *given,
    ]
    monkeypatch.setattr(sys, "argv", ["neuron-opsd", *line, "training.num_steps=1"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    published = tmp_path / "run" / "model"
    assert GenerationConfig.from_pretrained(published).temperature is None
    card = (published / "README.md").read_text().replace("\\", "")  # Markdown's escapes
    assert "temperature=0.7, top_p=0.9" in card
    assert "enable_thinking=false; they are the defaults of its chat template" in card
    asked = AutoTokenizer.from_pretrained(published).apply_chat_template(
        [{"role": "user", "content": "2 + 2?"}], tokenize=False, add_generation_prompt=True
    )
    assert asked.endswith("<think>\n\n</think>\n\n")
