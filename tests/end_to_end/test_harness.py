"""`neuron-opsd harness` with the real lm-evaluation-harness on tiny models, against likelihoods computed by hand."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from end_to_end.test_compare import line, rows_of, tables  # noqa: F401
from end_to_end.test_pipeline import run
from neuron_opsd.commands import harness
from neuron_opsd.store.own_folder import claim

needs_it = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")


def accuracy(model_folder: Path, rows: list[dict]) -> float:
    """The share of rows whose right letter is the likeliest continuation, one full text at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    right = 0
    for row in rows:
        size = len(tokenizer(row["prompt"]).input_ids)
        scores = []
        for letter in row["letters"]:
            ids = torch.tensor([tokenizer(f"{row['prompt']} {letter}").input_ids])
            with torch.no_grad():
                logs = torch.log_softmax(model(ids).logits[0, :-1].float(), dim=-1)
            scores.append(float(logs.gather(1, ids[0, 1:, None])[size - 1 :].sum()))
        right += scores.index(max(scores)) == row["gold"]
    return right / len(rows)


@needs_it
@pytest.mark.slow
def test_the_harness_scores_each_cell_and_its_figures_stand_in_the_tables(
    line: list[str],  # noqa: F811
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    file = tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps(row | {"choices": []}) + "\n" for row in rows_of(file)))  # free-form
    folder = tmp_path / "comparison"
    assert run([*line, "--recipe", "random_context", "--seed", "0", "--steps", "1"], monkeypatch) == 0
    before = tables(folder)["table.csv"]
    assert run(["harness", str(folder)], monkeypatch) == 0

    cell = folder / "cells" / "random_context" / "sums" / "seed-0"
    tasks = rows_of(cell / "harness" / "tasks" / "heldout_sums.jsonl")
    assert len(tasks) == len(rows_of(*folder.glob("questions/sums.test.*")))
    with (folder / "harness.csv").open() as rows:
        found = {
            (r["method"], r["source"], r["task"], r["metric"]): float(r["value"])
            for r in csv.DictReader(rows)
        }
    by_hand = {"base": accuracy(tiny_model_folder, tasks), "random_context": accuracy(cell / "model", tasks)}
    assert found["base", "", "heldout_sums", "acc"] == pytest.approx(by_hand["base"])
    assert found["random_context", "sums", "heldout_sums", "acc"] == pytest.approx(by_hand["random_context"])
    assert found["base", "", "heldout_other_free", "exact_match"] == 0.0
    for page in (folder, cell):
        assert "heldout_sums, acc" in (page / "report.html").read_text()
    assert "## lm-evaluation-harness" in (folder / "table.md").read_text()
    assert tables(folder)["table.csv"] == before  # nothing of ours depends on it

    whole, scores = tables(folder) | {"": (folder / "harness.csv").read_bytes()}, harness._scores
    monkeypatch.setattr(harness, "_scores", None)  # what is scored is kept
    assert run(["harness", str(folder)], monkeypatch) == 0
    assert tables(folder) | {"": (folder / "harness.csv").read_bytes()} == whole

    monkeypatch.setattr(harness, "_scores", scores)
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.jsonl").write_text(json.dumps({"question": "2 + 2 =", "gold": "4"}) + "\n")
    task = yaml.safe_load((cell / "harness" / "tasks" / "heldout_sums.yaml").read_text())
    task |= {"task": "mine", "doc_to_text": "question", "doc_to_choice": ["4", "5"], "doc_to_target": "gold"}
    task["dataset_kwargs"] = {"data_files": {"test": str(own / "mine.jsonl")}}
    (own / "mine.yaml").write_text(yaml.safe_dump(task))
    capsys.readouterr()
    assert run(["harness", str(cell), "--tasks", str(own)], monkeypatch) == 0
    assert "mine, acc of 1 questions: base" in capsys.readouterr().out


def test_what_the_harness_needs(
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    claim(tmp_path / "run", "run")
    settings = {"model": {"name": str(tiny_model_folder)}, "questions": {"path": "q"}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(harness, "_is_installed", lambda: False)
    for folder in ("run", "nowhere"):  # said before the run, and its model, are looked for
        assert run(["harness", str(tmp_path / folder)], monkeypatch) == 2
        assert "neuron-opsd[harness]" in capsys.readouterr().err
    monkeypatch.setattr(harness, "_is_installed", lambda: True)
    assert run(["harness", str(tmp_path / "run")], monkeypatch) == 2
    assert "is not evaluated yet" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(["harness", str(tmp_path / "run"), "--tasks", str(tmp_path / "empty")], monkeypatch) == 2
    assert "no task file" in capsys.readouterr().err
