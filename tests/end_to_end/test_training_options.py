"""Options of training through the command line: template arguments per role, groups, an adapter, a matched entropy."""

import json
import logging
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from end_to_end.test_pipeline import run

TEMPLATE = (
    "{{ mark | default('') }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_template_arguments_per_role_groups_and_an_adapter(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    folder = tmp_path / "run"
    options = [
        f"model.chat_template={tmp_path / 'template.jinja'}",
        "model.teacher_template_args={mark: For the teacher.}",
        "training.num_rollouts=2",
        "training.rollout_steps=2",
        "training.save=adapter",
        "training.support=teacher_top_k",
        "training.top_k=20",
    ]
    assert run([*command, *options, "--output", str(folder)], monkeypatch) == 0

    question_id = json.loads((folder / "contexts" / "records.jsonl").read_text().splitlines()[0])[
        "question_id"
    ]
    capsys.readouterr()
    assert run(["show", str(folder), question_id], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert shown.count("For the teacher.") == 1
    assert shown.index("For the teacher.") > shown.index(
        "<|im_start|>assistant"
    )  # after the student's prompt

    rows = [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert 0 < row["captured_mass_fraction"] < 1
        assert 0 <= row["parse_rate"] <= 1
        assert 0 <= row["vote_share"] <= 1
        assert row["num_loss_tokens"] == row["num_completion_tokens"]
    summary = json.loads((folder / "training" / "manifest.json").read_text())["summary"]
    assert summary["stopped_because"] is None
    assert summary["best_step"] == 3

    base = AutoModelForCausalLM.from_pretrained(command[command.index("--model") + 1])
    assert isinstance(PeftModel.from_pretrained(base, folder / "model"), PeftModel)
    assert (folder / "evaluation" / "results.json").is_file()  # the adapter was evaluated


def test_a_matched_student_is_published_with_its_temperature(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The last normalisation, which no adapter changes, is the base's divided by it."""
    caplog.set_level(logging.INFO)
    folder = tmp_path / "run"
    options = ["training.student_entropy=matched", "rollouts.temperature=0.8", "--until", "train"]
    assert run([*command, *options, "--output", str(folder)], monkeypatch) == 0
    published = json.loads((folder / "training" / "manifest.json").read_text())["summary"]["published"]
    temperature = published["student_temperature"]
    assert temperature != 1
    assert f"divided by {temperature:.3f}: at temperature 0.8 its token entropy" in caplog.text
    base, found = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).model.norm.weight
        for path in (command[command.index("--model") + 1], folder / "model")
    )
    torch.testing.assert_close(found, base / temperature)

    capsys.readouterr()
    export = ["export", str(folder), "--format", "adapter", "--output", str(tmp_path / "adapter")]
    assert run(export, monkeypatch) == 2
    assert "student_entropy is matched" in " ".join(capsys.readouterr().err.split())
