"""`evaluation.stop_votes` from the command line, beside a run that draws all samples; and what it refuses."""

import json
from pathlib import Path

import pytest

from end_to_end.conftest import command_for, write_questions
from end_to_end.test_pipeline import run
from neuron_opsd.config import EvaluationSettings
from neuron_opsd.config.load import load_config
from neuron_opsd.errors import ConfigError
from neuron_opsd.preflight.positions import position_bias
from neuron_opsd.records import OptionScores, Rollout
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.store.run_folder import RunFolder


def test_the_majority_is_that_of_all_samples(
    lettered_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = write_questions(tmp_path / "sums.jsonl", "sums", 20)
    cross = write_questions(tmp_path / "other.jsonl", "other", 4)
    ids = [json.loads(line)["question_id"] for file in (pool, cross) for line in file.open()]
    key = tmp_path / "answers.jsonl"
    key.write_text("".join(json.dumps({"question_id": name, "answer": "B"}) + "\n" for name in ids))
    command = ["run", "base", *command_for(lettered_model_folder, pool, cross)[2:], "--answers", str(key)]
    command += ["evaluation.num_samples=7", "evaluation.temperature=0.8", "rollouts.shard_size=100"]
    folders = [tmp_path / "all", tmp_path / "stopped"]
    for folder, extra in zip(folders, ([], ["evaluation.stop_votes=true"]), strict=True):
        assert run([*command, *extra, "--output", str(folder)], monkeypatch) == 0
    whole, stopped = (json.loads((folder / "evaluation" / "results.json").read_text()) for folder in folders)
    for ours, theirs in zip(stopped["questions"], whole["questions"], strict=True):
        assert ours["base_answer"] == theirs["base_answer"]
        assert ours["base_majority_correct"] == theirs["base_majority_correct"]
    found, expected = (results["in"]["metrics"] for results in (stopped, whole))
    assert found["maj"]["base"]["value"] == expected["maj"]["base"]["value"]
    assert (found["avg"]["label"], found["maj"]["label"]) == ("Avg@4", "Maj@7")
    stages = [RunFolder.open(folder).stage("evaluation/base") for folder in folders]
    groups = [group_by_question(stage.read(Rollout)) for stage in stages]
    sizes = [len(group) for group in groups[1].values()]
    assert (min(sizes), max(sizes) > 4) == (4, True)
    for name, group in groups[1].items():
        assert [r.answer for r in group] == [r.answer for r in groups[0][name]][: len(group)]
    # Each question's first four, whatever came after.
    firsts = [
        [r.answer == "B" for r in group[:4]] for name, group in groups[0].items() if name.startswith("sums")
    ]
    assert found["avg"]["base"]["value"] == pytest.approx(sum(map(sum, firsts)) / 4 / len(firsts))
    drawn = sum(sizes)
    assert stages[1].summary()["num_not_drawn"] == 7 * len(sizes) - drawn
    assert f"{drawn} before training" in (folders[1] / "report.md").read_text()
    options = RunFolder.open(folders[1]).stage("evaluation/base_options").read(OptionScores)
    assert len(options) == len(sizes)


def test_a_vote_that_another_reader_opens_again_is_sampled_again(
    lettered_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pattern that finds nothing ends each vote after half of the samples. Without it, some need more."""
    pool = write_questions(tmp_path / "sums.jsonl", "sums", 12)
    command = ["run", "base", *command_for(lettered_model_folder, pool, pool)[2:], "questions.cross_paths=[]"]
    command += ["evaluation.num_samples=7", "evaluation.temperature=0.8", "rollouts.shard_size=1"]
    command += ["evaluation.stop_votes=true", "evaluation.shuffle_choices=true"]
    caplog.set_level("INFO")
    found = {}
    for name, readings in (
        ("today", [[]]),
        ("changed", [["prompts.answer_pattern=nothing like ([A-D])"], []]),
    ):
        for extra in readings:
            assert run([*command, *extra, "--output", str(tmp_path / name)], monkeypatch) == 0
        folder = RunFolder.open(tmp_path / name)
        rollouts = folder.stage("evaluation/base").read(Rollout)
        orders = [score.num_orders for score in folder.stage("evaluation/base_options").read(OptionScores)]
        found[name] = [(r.question_id, r.rollout_index, r.completion_ids, r.answer) for r in rollouts], orders
    assert found["changed"] == found["today"]
    assert max(index for _, index, _, _ in found["today"][0]) > 3  # some votes did need more
    assert "stopped votes are open again" in caplog.text


def test_the_preflight_reads_what_each_question_has(
    lettered_model_folder: Path, question_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that were drawn because a vote was open would count its question more."""
    command = [*command_for(lettered_model_folder, *question_files), "--output", str(tmp_path / "run")]
    command += ["rollouts.num_rollouts=7", "rollouts.stop_votes=true", "rollouts.temperature=0.8"]
    assert run([*command, "--until", "preflight"], monkeypatch) == 0
    folder = RunFolder.open(tmp_path / "run")
    rollouts = folder.stage("rollouts").read(Rollout)
    found = {row["name"]: row["value"] for row in folder.stage("preflight").summary()["measures"]}
    wanted, every = (
        position_bias([r for r in rollouts if r.rollout_index < limit], seed=folder.config().seed)
        for limit in (4, 7)
    )
    assert wanted is not None
    assert every is not None
    assert found["position_bias"] == wanted.value != every.value


def test_what_stopped_votes_cannot_give_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.pass_k is 8, but a question has 4 samples"):
        EvaluationSettings(stop_votes=True, pass_k=8)
    assert EvaluationSettings(stop_votes=True, num_samples=7).k_of_pass == 4
    with pytest.raises(ValueError, match="there is no vote to stop"):
        EvaluationSettings(stop_votes=True, exact=True)
    asked = ["model.name=m", "questions.path=q.jsonl", "rollouts.num_rollouts=8", "rollouts.stop_votes=true"]
    for reader in ("selection.score=vote_share", "training.objective=majority_sft"):
        with pytest.raises(ConfigError, match="which reads all"):
            load_config("neuron_opsd", overrides=[*asked, reader])
