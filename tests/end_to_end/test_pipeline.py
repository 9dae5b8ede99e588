"""The whole path through the command line on a tiny model: equal bytes, no labels before evaluation, resume."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuron_opsd import cli

# Wall times, versions, the trainer's own checkpoints (they hold absolute paths), and the lock.
NEVER_EQUAL = {"timings.jsonl", "environment.json", ".lock", "report.html"}
# What may know gold answers.
KNOWS_ANSWERS = {"results.json", "report.md", "README.md", "config.yaml"}


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["neuron-opsd", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def artefacts(folder: Path, *, without: set[str]) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "checkpoint-" not in str(path)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in without}


def test_equal_runs_give_equal_bytes_and_a_model_others_load(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        assert run([*command, "--output", str(tmp_path / name)], monkeypatch) == 0
    first, second = (artefacts(tmp_path / name, without=NEVER_EQUAL) for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert len(first["training/metrics.jsonl"].splitlines()) == 3
    assert "report.html" in capsys.readouterr().out

    published = tmp_path / "first" / "model"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(published),
        AutoTokenizer.from_pretrained(published),
    )
    base = AutoModelForCausalLM.from_pretrained(command[3])
    ids = torch.tensor([tokenizer("2 + 2").input_ids])
    assert not torch.equal(model(ids).logits, base(ids).logits)  # trained, not copied
    assert tokenizer.chat_template
    assert (published / "README.md").read_text().startswith("---")


def test_answers_change_nothing_before_evaluation(
    command: list[str], question_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for file in question_files for line in file.read_text().splitlines()]
    key = tmp_path / "answers.jsonl"
    made = {}
    for name, letter in (("true", "A"), ("poisoned", "D"), ("absent", None)):
        extra = []
        if letter:
            key.write_text(
                "".join(
                    json.dumps({"question_id": row["question_id"], "answer": letter}) + "\n" for row in rows
                )
            )
            extra = ["--answers", str(key)]
        assert run([*command, *extra, "--output", str(tmp_path / name)], monkeypatch) == 0
        made[name] = artefacts(tmp_path / name, without=NEVER_EQUAL | KNOWS_ANSWERS)
    assert made["true"] == made["poisoned"] == made["absent"]
    results = [
        json.loads((tmp_path / name / "evaluation/results.json").read_text()) for name in ("true", "poisoned")
    ]
    # The key was read, afterwards.
    assert [result["in"]["majority_class"]["answer"] for result in results] == ["A", "D"]


def test_answer_column_in_the_question_file_changes_nothing(
    command: list[str], question_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, labelled = tmp_path / "plain", tmp_path / "labelled"
    assert run([*command, "--output", str(plain), "--until", "contexts"], monkeypatch) == 0
    pool = question_files[0]
    rows = [json.loads(line) | {"answer": "B"} for line in pool.read_text().splitlines()]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run([*command, "--output", str(labelled), "--until", "contexts"], monkeypatch) == 0
    assert artefacts(plain, without=NEVER_EQUAL) == artefacts(labelled, without=NEVER_EQUAL)


def test_stages_one_by_one_resume_and_show(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, steps = tmp_path / "whole", tmp_path / "steps"
    assert run([*command, "--output", str(whole), "--until", "contexts"], monkeypatch) == 0
    assert run([*command, "--output", str(steps), "--until", "rollouts"], monkeypatch) == 0
    lost = steps / "rollouts" / "part-00001.parquet"
    lost.write_bytes(lost.read_bytes()[:100])  # as a crash may leave it
    for stage in ("rollouts", "neurons", "select", "contexts"):
        assert run([stage, str(steps)], monkeypatch) == 0
    assert artefacts(whole, without=NEVER_EQUAL) == artefacts(steps, without=NEVER_EQUAL)

    before = (steps / "rollouts" / "part-00000.parquet").stat().st_mtime_ns
    assert run(["rollouts", str(steps)], monkeypatch) == 0
    assert (
        steps / "rollouts" / "part-00000.parquet"
    ).stat().st_mtime_ns == before  # finished work is left alone

    chosen = json.loads((steps / "contexts" / "records.jsonl").read_text().splitlines()[0])
    capsys.readouterr()
    assert run(["show", str(steps), chosen["question_id"]], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert (
        shown.count("<|im_start|>user") == 1 + 3
    )  # student: the question; teacher: two demonstrations and it
    assert chosen["demonstrations"][0]["reply"] in shown


def test_another_selection_reuses_rollouts_and_neurons(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    assert run([*command, "--output", str(folder), "--until", "contexts"], monkeypatch) == 0
    times = {
        name: (folder / name / "manifest.json").stat().st_mtime_ns
        for name in ("rollouts", "neurons", "selection")
    }
    assert (
        run([*command, "--output", str(folder), "--until", "contexts", "selection.score=random"], monkeypatch)
        == 0
    )
    after = {name: (folder / name / "manifest.json").stat().st_mtime_ns for name in times}
    assert {name for name in times if times[name] != after[name]} == {"selection"}


def test_dry_run_writes_nothing(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--output", str(tmp_path / "run"), "--dry-run"], monkeypatch) == 0
    assert not (tmp_path / "run").exists()
    assert "training: 3 steps of 4" in capsys.readouterr().out
