"""A newer reader: reports say what it would read otherwise, `evaluate` reads again, and nothing else changes."""

import dataclasses
from pathlib import Path

import pytest

from end_to_end.conftest import command_for
from end_to_end.test_pipeline import run
from neuron_opsd.commands.status import run_status
from neuron_opsd.records import Rollout
from neuron_opsd.run import inputs
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.stage_folder import StageFolder


def forget_answers(stage: StageFolder) -> None:
    """Let every third stored reply of a finished stage be one that nothing was read in."""
    manifest = stage.manifest()
    assert manifest is not None
    for index in range(len(manifest["shards"])):
        rollouts = [
            dataclasses.replace(rollout, answer=None if place % 3 == 0 else rollout.answer)
            for place, rollout in enumerate(stage.read_shard(index, Rollout))
        ]
        stage.add_shard(rollouts, Rollout, index)
    stage.finish(manifest["summary"], Rollout)


def shards(folder: RunFolder, name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.stage(name).path.glob("part-*"))]


def test_stored_replies_are_read_again_by_evaluate_alone(
    lettered_model_folder: Path,
    question_files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = RunFolder(tmp_path / "run")
    command = [*command_for(lettered_model_folder, *question_files), "training.num_steps=1"]
    with monkeypatch.context() as before:
        before.setattr(inputs, "READER_VERSION", 1)
        assert run([*command, "--output", str(folder.path)], monkeypatch) == 0
    as_read = {name: shards(folder, name) for name in ("evaluation/base", "evaluation/trained")}
    results = (folder.path / "evaluation" / "results.json").read_bytes()
    for name in ("rollouts", *as_read):
        forget_answers(folder.stage(name))
    old = {name: shards(folder, name) for name in ("rollouts", *as_read)}
    options = shards(folder, "evaluation/trained_options")

    assert run(["report", str(folder.path)], monkeypatch) == 0
    page = (folder.path / "report.md").read_text()
    num_samples = folder.stage("evaluation/base").num_records()
    assert f"of {num_samples} samples of the base model would be read otherwise today" in page
    assert "neuron-opsd evaluate RUN" in page
    assert "zero-shot rollouts would be read otherwise today. The model was trained on" in page
    assert {name: shards(folder, name) for name in old} == old  # a report changes nothing

    found = {stage.stage: stage for stage in run_status(folder).stages}
    assert {name for name, stage in found.items() if stage.state == "read again"} == set(as_read)
    assert all(found[name].seconds_left == 0 for name in as_read)
    assert "reader" in found["evaluation/base"].why

    caplog.set_level("INFO")
    assert run(["evaluate", str(folder.path)], monkeypatch) == 0
    assert {name: shards(folder, name) for name in as_read} == as_read
    assert (folder.path / "evaluation" / "results.json").read_bytes() == results
    again = [record.getMessage() for record in caplog.records if "read again" in record.getMessage()]
    assert [line.split(":")[0] for line in again] == list(as_read)
    made = [row for row in folder.timings() if row["stage"] in as_read]
    assert [row["num_tokens"] for row in made[-2:]] == [0, 0]  # none was sampled
    # What a model was trained on, and what reads no answer, stays as it was.
    assert shards(folder, "rollouts") == old["rollouts"]
    assert shards(folder, "evaluation/trained_options") == options

    assert run(["report", str(folder.path)], monkeypatch) == 0
    page = (folder.path / "report.md").read_text()
    assert "evaluate RUN" not in page.split("## How to read")[0]


def test_a_pattern_given_later_reads_rollouts_again_without_sampling(
    lettered_model_folder: Path,
    question_files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = RunFolder(tmp_path / "run")
    command = [*command_for(lettered_model_folder, *question_files), "--output", str(folder.path)]
    assert run([*command, "--until", "rollouts"], monkeypatch) == 0
    before = folder.stage("rollouts").read(Rollout)
    assert any(rollout.answer for rollout in before)
    assert (
        run([*command, "--until", "rollouts", "prompts.answer_pattern=nothing like ([A-D])"], monkeypatch)
        == 0
    )
    after = folder.stage("rollouts").read(Rollout)
    assert [rollout.reply for rollout in after] == [rollout.reply for rollout in before]
    assert not any(rollout.answer for rollout in after)
    assert folder.timings()[-1]["num_tokens"] == 0
