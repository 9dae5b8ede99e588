"""Evaluation with option probabilities: the prompts that sampling reads are not read again."""

from pathlib import Path

import pytest

from end_to_end.fork_run import WholeRun
from end_to_end.test_pipeline import run
from neuron_opsd.evaluation import samples
from neuron_opsd.evaluation.options import score_options
from neuron_opsd.records import OptionScores, Question, Rollout
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder


def test_the_probabilities_are_those_of_a_pass_of_their_own(whole_run: WholeRun) -> None:
    opened = Run(RunFolder.open(whole_run.folder))
    questions = opened.folder.stage("questions").read(Question)
    expected = score_options(
        [question for question in questions if question.split == "test"],
        group_by_question(opened.folder.stage("evaluation/base").read(Rollout)),
        opened.models.base()[0],
        opened.models.encoder(),
        prompts=opened.config.prompts,
        batch_size=3,
    )
    stored = {
        score.question_id: score
        for score in opened.folder.stage("evaluation/base_options").read(OptionScores)
    }
    assert {score.question_id for score in expected} <= stored.keys()
    for score in expected:
        found = stored[score.question_id]
        assert found.num_orders == score.num_orders
        assert found.probabilities == pytest.approx(score.probabilities, abs=1e-5)
        assert found.option_mass == pytest.approx(score.option_mass, rel=1e-3)


@pytest.mark.parametrize(("answer_format", "num_passes"), [("choice_text", 0), ("reasoned", 1)])
def test_only_another_wording_takes_a_pass(
    command: list[str],
    answer_format: str,
    num_passes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = []

    def counted(*arguments, **settings) -> list[OptionScores]:
        passes.append(arguments)
        return score_options(*arguments, **settings)

    monkeypatch.setattr(samples.OptionStage, "score", staticmethod(counted))
    asked = ["run", "base", *command[2:], f"prompts.answer_format={answer_format}", "rollouts.shard_size=100"]
    assert run([*asked, "--output", str(tmp_path / "run")], monkeypatch) == 0
    assert len(passes) == num_passes
    folder = RunFolder.open(tmp_path / "run")
    assert folder.stage("evaluation/base_options").num_records() == 16
    assert not list(tmp_path.glob("run/evaluation/*.inbox"))
