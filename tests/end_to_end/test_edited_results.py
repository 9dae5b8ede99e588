"""Figures that a person has edited: `status --verify` names them, no report prints them, no other run reads them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from end_to_end.fork_run import WholeRun
from neuron_opsd.cli import app

LIE = "99.87654321"


def invoke(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


@pytest.fixture
def run(whole_run: WholeRun, tmp_path: Path) -> Path:
    shutil.copytree(whole_run.folder, tmp_path / "run")
    return tmp_path / "run"


def edit(file: Path) -> None:
    """Every figure of a JSON file, or the text of another."""
    if file.suffix == ".json":
        results = json.loads(file.read_text())
        results["verdicts"] = [f"The model is {LIE} % right."]
        file.write_text(json.dumps(results))
    else:
        file.write_text(f"{file.read_text()}\n{LIE}\n")


FILES = [
    "evaluation/results.json",
    "preflight/verdict.json",
    "rollouts/records.jsonl",
    "selection/records.jsonl",
    "evaluation/base/records.jsonl",
    "training/metrics.jsonl",
    "model/README.md",
    "model/config.json",
    "report.md",
    "report.html",
]


@pytest.mark.parametrize("name", FILES)
def test_an_edit_is_found(run: Path, name: str) -> None:
    assert Path(name).name not in invoke("status", str(run), "--verify")
    edit(run / name)
    assert Path(name).name in invoke("status", str(run), "--verify")


def test_the_report_leaves_edited_figures_out(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(run / "evaluation/results.json")
    invoke("report", str(run))
    assert LIE not in (run / "report.html").read_text() + (run / "report.md").read_text()
    assert "evaluation/results.json was changed after it was written" in caplog.text


def test_the_same_command_makes_edited_files_again(whole_run: WholeRun, run: Path) -> None:
    for name in FILES[:4]:
        edit(run / name)
    invoke(*whole_run.command, "--output", str(run))
    for name in FILES[:4]:
        assert (run / name).read_bytes() == (whole_run.folder / name).read_bytes(), name


def test_the_checksums_are_those_of_a_standard_tool(run: Path) -> None:
    for file in ("SHA256SUMS", "report.html.sha256"):
        subprocess.run(["sha256sum", "--check", "--quiet", file], cwd=run, check=True)


def test_a_trained_model_is_kept_when_a_setting_changes(
    whole_run: WholeRun, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model before is put aside whole; one that is damaged, or made again from the same settings, is not."""
    before = contents(run / "model")
    command = [*whole_run.command, "--output", str(run)]
    (run / "training" / "metrics.jsonl").write_text("")
    invoke(*command, "--until", "train")
    assert not (run / "model.previous").exists()
    invoke(*command, "--until", "train", "training.learning_rate=0.02")
    assert "training.learning_rate was 0.01 and is 0.02" in caplog.text
    assert (
        contents(run / "model.previous").items()
        >= {name: content for name, content in before.items() if name != "README.md"}.items()
    )
    assert (run / "model/model.safetensors").read_bytes() != before["model.safetensors"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
