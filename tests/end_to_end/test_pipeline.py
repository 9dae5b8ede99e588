"""The whole path through the command line on a tiny model: equal bytes, no labels before evaluation, resume."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from end_to_end.fork_run import NEVER_EQUAL, WholeRun, artefacts
from neuron_opsd import cli
from neuron_opsd.config.graph import STAGES_BEFORE
from neuron_opsd.model.fingerprint import model_fingerprint
from neuron_opsd.store.run_folder import RunFolder

# What may know gold answers.
KNOWS_ANSWERS = {"results.json", "teacher_gap.json", "SHA256SUMS", "report.md", "README.md", "config.yaml"}


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["neuron-opsd", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture
def copied(whole_run: WholeRun, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    shutil.copytree(whole_run.folder, tmp_path / "run")
    return tmp_path / "run"


def test_equal_runs_give_equal_bytes_and_answers_change_results_alone(
    whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run has a process of its own and no answers. The other has poisoned answers, then true ones, then none."""
    files = [Path(whole_run.command[place]) for place in (5, 7)]
    ids = [json.loads(line)["question_id"] for file in files for line in file.read_text().splitlines()]
    key, folder = tmp_path / "answers.jsonl", tmp_path / "run"
    line, without, majority = [*whole_run.command, "--output", str(folder)], NEVER_EQUAL | KNOWS_ANSWERS, []
    for letter in "DA":
        key.write_text("".join(json.dumps({"question_id": one, "answer": letter}) + "\n" for one in ids))
        assert run([*line, "--answers", str(key)], monkeypatch) == 0
        assert artefacts(folder, without=without) == artefacts(whole_run.folder, without=without)
        results = json.loads((folder / "evaluation/results.json").read_text())
        majority.append(results["in"]["majority_class"]["answer"])
    pool = (folder / "rollouts" / "records.jsonl").read_text().splitlines()
    scored = results["pool_questions"]  # the pool's own answers too, for the figures
    assert len(scored) == len({json.loads(line)["question_id"] for line in pool})
    assert majority == ["D", "A"]  # the key was read, afterwards

    assert run(line, monkeypatch) == 0
    first, second = artefacts(whole_run.folder), artefacts(folder)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert len(first["training/metrics.jsonl"].splitlines()) == 6
    assert "report.html" in capsys.readouterr().out


def test_others_load_the_published_model(whole_run: WholeRun) -> None:
    published = whole_run.folder / "model"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(published),
        AutoTokenizer.from_pretrained(published),
    )
    base = AutoModelForCausalLM.from_pretrained(whole_run.command[3])
    ids = torch.tensor([tokenizer("2 + 2").input_ids])
    assert not torch.equal(model(ids).logits, base(ids).logits)  # trained, not copied
    assert tokenizer.chat_template
    assert (published / "README.md").read_text().startswith("---")


def test_answer_column_in_the_question_file_changes_nothing(
    whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, pool = [*whole_run.command], tmp_path / "sums.jsonl"
    rows = [json.loads(line) | {"answer": "B"} for line in Path(command[5]).read_text().splitlines()]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command[5] = str(pool)
    assert run([*command, "--output", str(tmp_path / "run"), "--until", "contexts"], monkeypatch) == 0
    labelled, plain = (
        artefacts(folder, without=NEVER_EQUAL | {"config.yaml"})  # it names the file
        for folder in (tmp_path / "run", whole_run.folder)
    )
    assert "contexts/records.jsonl" in labelled
    assert labelled.items() <= plain.items()


def test_stages_one_by_one_resume_and_show(
    whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = tmp_path / "steps"
    assert run([*whole_run.command, "--output", str(steps), "--until", "rollouts"], monkeypatch) == 0
    lost = steps / "rollouts" / "part-00001.parquet"
    lost.write_bytes(lost.read_bytes()[:100])  # as a crash may leave it
    for stage in ("rollouts", "neurons", "select", "contexts"):
        assert run([stage, str(steps)], monkeypatch) == 0
    assert artefacts(steps).items() <= artefacts(whole_run.folder).items()

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

    assert run(["explain", str(steps), chosen["question_id"], "--neighbours", "2"], monkeypatch) == 0
    explained = capsys.readouterr().out
    assert "in its domain: selected" in explained
    nearest = re.findall(r"^  (0\.\d{3})  \d+ shared.* (\S+)$", explained, re.MULTILINE)
    taught = [(f"{1 - item['distance']:.3f}", item["question_id"]) for item in chosen["demonstrations"]]
    assert nearest == taught
    assert run(["questions", str(steps), "--ids"], monkeypatch) == 0
    listed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    starred = {rest.split()[0] for mark, rest in listed if mark == "*"}
    selection = [json.loads(line) for line in (steps / "selection/records.jsonl").read_text().splitlines()]
    assert starred == {row["question_id"] for row in selection if row["selected"]}
    assert len(listed) == len(selection)

    assert run(["explain", str(steps), "sums-x"], monkeypatch) == 2
    assert "The nearest ids are 'sums-" in capsys.readouterr().err


def test_another_selection_reuses_rollouts_and_neurons(
    whole_run: WholeRun, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = {name: copied / name / "manifest.json" for name in ("rollouts", "neurons", "selection")}
    times = {name: file.stat().st_mtime_ns for name, file in manifests.items()}
    line = [*whole_run.command, "--output", str(copied), "--until", "contexts", "selection.score=random"]
    assert run(line, monkeypatch) == 0
    assert {name for name in times if times[name] != manifests[name].stat().st_mtime_ns} == {"selection"}


def test_dry_run_writes_nothing(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--output", str(tmp_path / "run"), "--dry-run"], monkeypatch) == 0
    assert not (tmp_path / "run").exists()
    lines = capsys.readouterr().out.splitlines()
    assert "training: 3 steps of 4" in lines
    assert sum(line.startswith("=== question sums-") for line in lines) == 3
    assert any(line.startswith("sums: what is") for line in lines)
    assert any("This is reply number 2." in line for line in lines)  # before the question, for the teacher
    about = "training.num_steps: 3 (recipe: 150). Optimiser steps, at most. (as in Neuron-OPSD)"
    assert about in lines
    assert not any(line.startswith("training.teacher:") for line in lines)  # as in the recipe
    assert run([*command, "--dry-run", "--all"], monkeypatch) == 0
    assert "training.teacher: ema. The teacher's weights. (as in Neuron-OPSD)" in capsys.readouterr().out
    told = [line.partition(":")[0] for line in lines[lines.index("=== work ===") :]]
    assert [name for name in told if name in STAGES_BEFORE] == [
        "questions", "rollouts", "neurons", "selection", "contexts", "preflight", "training",
        "evaluation/base", "evaluation/trained",
    ]  # fmt: skip


def test_a_run_that_another_process_holds_is_not_touched(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run([*command, "--output", str(folder), "--until", "questions"], monkeypatch) == 0
    before = (folder / "config.yaml").read_bytes()
    with RunFolder(
        folder
    ).locked():  # flock holds between two opens of the file, so one process can play both
        assert run([*command, "--output", str(folder), "seed=7"], monkeypatch) == 2
    assert "in use by process" in capsys.readouterr().err
    assert (folder / "config.yaml").read_bytes() == before


def test_a_folder_with_no_more_than_a_lock_is_taken(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("")
    (tmp_path / "run" / ".neuron_opsd.json.1.tmp").write_text("{")
    assert run([*command, "--output", str(tmp_path / "run"), "--until", "questions"], monkeypatch) == 0


def test_the_teacher_prompt_leaves_room_in_the_model(
    command: list[str], tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, folder = tmp_path / "small", tmp_path / "run"
    shutil.copytree(tiny_model_folder, small)
    settings = json.loads((small / "config.json").read_text()) | {"max_position_embeddings": 180}
    (small / "config.json").write_text(json.dumps(settings))
    command[command.index("--model") + 1] = str(small)
    assert run([*command, "--output", str(folder), "--until", "contexts"], monkeypatch) == 0
    contexts = [json.loads(line) for line in (folder / "contexts" / "records.jsonl").read_text().splitlines()]
    assert sum(context["num_demonstrations_dropped"] for context in contexts) > 0
    assert (
        max(context["num_teacher_prompt_tokens"] for context in contexts) <= 180 - 4
    )  # training.max_new_tokens


def test_results_of_an_outdated_model_are_not_reported(
    whole_run: WholeRun, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*whole_run.command, "--output", str(copied), "--until", "selection", "selection.fraction=0.7"]
    assert "Training: 6 steps" in (copied / "report.md").read_text()
    assert run(line, monkeypatch) == 0
    assert not (copied / "evaluation" / "results.json").exists()
    assert run(["report", str(copied)], monkeypatch) == 0
    text = (copied / "report.md").read_text()
    kept = (copied / "selection" / "records.jsonl").read_text().count('"selected": true')
    assert f"Selection: {kept} of" in text
    assert "Training: 6 steps" not in text  # of the selection of before


def test_a_stage_too_early_names_the_command_to_run(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "selection")
    assert run(["contexts", str(copied)], monkeypatch) == 2
    assert "neuron-opsd select RUN" in capsys.readouterr().err


def test_a_kill_between_the_last_step_and_publishing(
    whole_run: WholeRun, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "model")
    stage = RunFolder(copied).stage("training")
    stage.begin((stage.manifest() or {})["inputs"])
    assert run([*whole_run.command, "--output", str(copied)], monkeypatch) == 0
    assert artefacts(copied) == artefacts(whole_run.folder)


def test_a_kill_between_the_last_shard_and_the_end_of_its_stage(
    whole_run: WholeRun, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("questions", "rollouts", "neurons", "selection", "contexts"):
        stage = RunFolder(copied).stage(name)
        assert stage.begin((stage.manifest() or {})["inputs"]) == []  # all shards there, not complete
    assert run([*whole_run.command, "--output", str(copied)], monkeypatch) == 0
    assert artefacts(copied) == artefacts(whole_run.folder)


def test_the_fingerprint_follows_the_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_model_folder, copy)
    assert model_fingerprint(str(copy)) == model_fingerprint(str(tiny_model_folder))
    model = AutoModelForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(copy)
    assert model_fingerprint(str(copy)) != model_fingerprint(str(tiny_model_folder))


def test_the_preflight_tells_and_stops(
    command: list[str],
    shared_stages: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, with_flag = tmp_path / "run", [*command, "--output", str(tmp_path / "run"), "--stop-if-unlikely"]
    # Without demonstrations the teacher reads what the student reads: nothing can be learned from it.
    assert run([*with_flag, "contexts.num_demonstrations=0"], monkeypatch) == 3
    message = capsys.readouterr().err
    assert "unlikely to help" in message
    assert "error" not in message
    assert not (folder / "training").exists()
    verdict = json.loads((folder / "preflight" / "verdict.json").read_text())
    measures = {entry["name"]: entry["value"] for entry in verdict["measures"]}
    assert measures["divergence"] == pytest.approx(0, abs=1e-6)
    assert measures["answers_flipped"] == 0  # equal prompts and equal seeds

    assert run(["preflight", str(folder)], monkeypatch) == 0
    assert "Unlikely to help, because" in capsys.readouterr().out
    assert (
        run(
            [*command, "--output", str(folder), "--stop-if-unlikely", "preflight.num_questions=0"],
            monkeypatch,
        )
        == 2
    )


def test_a_preflight_of_a_finished_run_leaves_its_results(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "preflight")
    before = (copied / "evaluation" / "results.json").read_bytes()
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["preflight"]["num_questions"] = 3
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    assert run(["preflight", str(copied)], monkeypatch) == 0
    assert len((copied / "preflight" / "records.jsonl").read_text().splitlines()) == 3
    assert (copied / "evaluation" / "results.json").read_bytes() == before
