"""A finished run is looked at from another folder, with its model and its question files gone."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from end_to_end.conftest import command_for, write_questions
from end_to_end.fork_run import WholeRun
from neuron_opsd.cli import app
from neuron_opsd.config import load_config
from neuron_opsd.store.run_folder import RunFolder


def invoke(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_every_view_works_without_model_and_questions(
    whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run.folder, run)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["model"]["name"] = f"/gone/{Path(settings['model']['name']).name}"
    settings["questions"] |= {"path": "/gone/sums.jsonl", "cross_paths": ["/gone/other.jsonl"]}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    asked = json.loads((run / "contexts" / "records.jsonl").read_text().splitlines()[0])["question_id"]

    states = json.loads(invoke("status", str(run), "--json", "--verify"))
    assert {stage["state"] for stage in states["stages"]} == {"finished"}
    assert invoke("show", str(run), asked) == invoke("show", str(whole_run.folder), asked)
    invoke("explain", str(run), asked)
    invoke("export", str(run), "--format", "trl", "--output", str(tmp_path / "out.jsonl"))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) > 0
    report = (run / "report.md").read_text()
    invoke("report", str(run))
    left = {line for line in report.splitlines() if "| questions." not in line and "| model." not in line}
    assert left - set((run / "report.md").read_text().splitlines()) == set()


def test_the_settings_of_a_run_name_whole_paths(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path / "sums.jsonl", "sums", 20)
    write_questions(tmp_path / "other.jsonl", "other", 6)
    (tmp_path / "model").symlink_to(tiny_model_folder)
    invoke(
        *command_for(Path("model"), Path("sums.jsonl"), Path("other.jsonl")),
        *("--output", "run", "--until", "questions"),
    )
    config = RunFolder.open(tmp_path / "run").config()
    assert config.model.name == str(tmp_path / "model")
    assert config.questions.path == str(tmp_path / "sums.jsonl")
    assert config.questions.cross_paths == (str(tmp_path / "other.jsonl"),)
    monkeypatch.chdir("/")
    invoke("questions", str(tmp_path / "run"))


def test_names_that_are_no_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set's name stays one, also beside a folder of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some-set").mkdir()
    config = load_config("neuron_opsd", values={"model.name": "Qwen/Qwen3-8B", "questions.path": "some-set"})
    run = RunFolder.create(tmp_path / "run")
    run.write_config(config)
    assert run.config() == config
