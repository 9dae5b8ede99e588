"""`neuron-opsd compare` on two domains with a tiny model: tables, failures, resumption."""

import csv
import json
import re
import shutil
import signal
from pathlib import Path

import pytest

from end_to_end.conftest import write_questions
from end_to_end.fork_run import ForkedRun
from end_to_end.test_pipeline import run
from end_to_end.tiny_run import SMALL
from neuron_opsd.comparison.run import describe_cells
from neuron_opsd.store.run_folder import RunFolder

ALONE = ("--recipe", "random_context", "--seed", "0", "--steps", "1")


@pytest.fixture
def line(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("NEURON_OPSD_STAGES", str(tmp_path / "cache"))
    key = tmp_path / "answers.jsonl"
    rows, files = [], []
    for domain in ("sums", "other"):
        path = write_questions(tmp_path / f"{domain}.jsonl", domain, 14)
        files += ["--questions", str(path)]
        rows += [{"question_id": json.loads(text)["question_id"], "answer": "B"} for text in path.open()]
    key.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [option for option in SMALL if not option.startswith("training.num_steps")]
    start = ["compare", str(tmp_path / "comparison"), "evaluation.option_probability=false", *options]
    return [*start, "--model", str(tiny_model_folder), *files, "--answers", str(key)]


def tables(folder: Path) -> dict[str, bytes]:
    names = ("table.csv", "grid.csv", "table.md", "table.tex", "report.md")
    return {name: (folder / name).read_bytes() for name in names}


def test_compare_two_domains(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, broken = tmp_path / "comparison", tmp_path / "broken.yaml"
    broken.write_text("description: cannot fit any question\ncontexts: {max_prompt_tokens: 1}\n")
    assert run([*line, *ALONE, "--recipe", str(broken)], monkeypatch) == 0
    with (folder / "grid.csv").open() as file:
        grid = {(r["method"], r["source"], r["target"]) for r in csv.DictReader(file)}
    domains = ("other", "sums")
    untrained = ("base", "base with 3 votes")
    assert grid == {(name, "", t) for name in untrained for t in domains} | {
        ("random_context", s, t) for s in domains for t in domains
    }
    text = (folder / "table.md").read_text()
    assert "failed: 2 of 2 cells (DataError: " in text
    assert re.search(r"needs \d+ prompt tokens, more than contexts\.max_prompt_tokens=1", text)
    assert "1 optimiser steps" in text
    # Every question is "sums: what is # + #?": a template of one in each domain.
    assert "| random_context | sums | 100% | 100% |" in text
    assert "seconds" in (folder / "timings.csv").read_text()
    assert "Methods compared" in (folder / "report.html").read_text()
    # The base model answers the held-out questions of all domains once, whatever it is compared with.
    sampled = [
        row for row in csv.DictReader((folder / "timings.csv").open()) if row["stage"] == "evaluation/base"
    ]
    assert len(sampled) == 1

    before = tables(folder)
    caplog.clear()
    caplog.set_level("INFO")
    assert run(["compare", str(folder)], monkeypatch) == 0  # the plan is the folder's own
    cells = [record.message for record in caplog.records if record.message.startswith("cell ")]
    assert sum(message.endswith("finished before") for message in cells) == 3
    assert tables(folder) == before

    victim = folder / "cells" / "random_context" / "sums" / "seed-0"
    (victim / "cell.json").unlink()  # as if killed in the evaluation of the trained model
    (victim / "evaluation" / "results.json").unlink()
    (victim / "evaluation" / "trained" / "part-00000.parquet").unlink()
    assert "random_context, trained on sums, seed 0: not run" in describe_cells(folder, {})
    weights = (victim / "model" / "model.safetensors").stat().st_mtime_ns
    assert run(["compare", str(folder)], monkeypatch) == 0
    assert (victim / "model" / "model.safetensors").stat().st_mtime_ns == weights  # not trained again
    assert tables(folder) == before


@pytest.mark.slow
def test_killed_in_a_cell_and_started_again(line: list[str], tmp_path: Path) -> None:
    steps = (
        "--steps",
        "6",
        "--seed",
        "0",
        "training.save_steps=2",
        "training.num_rollouts=2",
        "num_threads=1",
    )
    options = [*steps, "--recipe", "random_context", "--recipe", "ttrl"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def compare(folder: Path) -> ForkedRun:
        named = ["compare", str(folder), *line[2:], *options, "--cache", str(folder) + "-cache"]
        return ForkedRun(
            named if not folder.exists() else ["compare", str(folder)], folder.with_suffix(".log")
        )

    assert compare(whole).wait() == 0
    for place in (
        "random_context/sums/seed-0/training/checkpoint-2",
        "ttrl/other/seed-0/training/metrics.jsonl",
    ):
        moment = killed / "cells" / place
        run = compare(killed)
        assert run.wait_for(moment), run.log.read_text()
        assert run.send(signal.SIGKILL) == -signal.SIGKILL
        assert not (moment.parents[1] / "model").exists()  # in the middle of training, not after it
        assert tables(killed).keys() == tables(whole).keys()  # a table of what there is, at every moment
    last = compare(killed)
    assert last.wait() == 0, last.log.read_text()
    assert tables(killed) == tables(whole)
    weights = [path.relative_to(whole) for path in whole.rglob("model/model.safetensors")]
    assert len(weights) == 4
    assert [
        str(path) for path in weights if (killed / path).read_bytes() != (whole / path).read_bytes()
    ] == []
    said = last.log.read_text()
    assert said.count("finished before") >= 3


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_equal_tokens(
    line: list[str], lettered_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recipe ends with the step that spends the budget, its rollouts paid for; also one killed at that moment."""
    folder, budget = tmp_path / "comparison", 240
    recipes = ("random_context", "ttrl", "lmsi")
    chosen = [option for recipe in recipes for option in ("--recipe", recipe)]
    settings = ["training.save_steps=1", "training.truncated=keep", "--seed", "0", "--tokens", str(budget)]
    settings.append(f"model.name={lettered_model_folder}")
    assert run([*line, *chosen, *settings], monkeypatch) == 0
    for recipe in recipes:
        cell = folder / "cells" / recipe / "other" / "seed-0"
        rollouts = cell / "rollouts" / "manifest.json"
        taken = (
            json.loads(rollouts.read_text())["summary"]["num_completion_tokens"] if rollouts.exists() else 0
        )
        sums = [taken]
        for row in rows_of(cell / "training" / "metrics.jsonl"):
            sums.append(sums[-1] + row["num_completion_tokens"] + row["num_loss_tokens"])
        assert sums[-2] < budget <= sums[-1], recipe
        assert len(sums) > 2, recipe
    assert f"Budget: {budget} tokens" in (folder / "table.md").read_text()

    before, cell = tables(folder), folder / "cells" / "random_context" / "other" / "seed-0"
    weights = (cell / "model" / "model.safetensors").read_bytes()
    training = RunFolder(cell).stage("training")
    training.begin(
        (training.manifest() or {})["inputs"]
    )  # as if killed after the last step, not yet published
    shutil.rmtree(cell / "model")
    (cell / "cell.json").unlink()
    assert list((cell / "training").glob("checkpoint-*"))
    assert run(["compare", str(folder)], monkeypatch) == 0
    assert (cell / "model" / "model.safetensors").read_bytes() == weights
    assert tables(folder) == before
    assert run(["compare", str(folder), "--steps", "1", "--tokens", "1"], monkeypatch) == 2


def test_what_cannot_be_compared_is_refused(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*line, "--recipe", "neuron_opds"], monkeypatch) == 2
    assert "neuron_opsd" in capsys.readouterr().err
    assert run([*line[:-2]], monkeypatch) == 2
    assert "--answers is missing" in capsys.readouterr().err
    (tmp_path / "comparison").mkdir(exist_ok=True)
    (tmp_path / "comparison" / "mine.txt").write_text("mine")
    assert run([*line, *ALONE], monkeypatch) == 2
    assert "is not a comparison folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": "nobody", "answer": "B"}], "--answers: none of the 1 rows of "),
        ([{"question_id": [1], "answer": "B"}], "question_id"),
    ],
)
def test_an_answer_file_that_cannot_be_used_is_found_once(
    line: list[str], rows: list[dict], message: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run([*line, *ALONE], monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.count("answers.jsonl") == 1
    assert message in said
    assert not (tmp_path / "comparison" / "cells").exists()
