"""Hand-worked times: tokens per second, the pace of shards, and no rate at all."""

import os
from pathlib import Path

import pytest

from neuron_opsd.commands.cost import Cost, Rates, count_records, describe_work, shard_pace
from neuron_opsd.commands.status import describe_seconds
from neuron_opsd.config import Config, load_config
from neuron_opsd.config.graph import STAGES_BEFORE
from neuron_opsd.records import NeuronSets, Question
from neuron_opsd.store.stage_folder import StageFolder

ROW = {"stage": "rollouts", "seconds": 50.0, "num_items": 10, "num_tokens": 5000}  # 100 tokens a second


def settings(*overrides: str) -> Config:
    return load_config("neuron_opsd", overrides=overrides, values={"model.name": "m", "questions.path": "q"})


def stage(name: str) -> StageFolder:
    return StageFolder(Path("/nowhere") / name, name)


def test_seconds_by_tokens_per_second() -> None:
    rates = Rates(settings(), [{**ROW, "seconds": 1.0}, ROW], {"rollouts": 300.0})
    assert rates.cost(stage("rollouts"), 20) == Cost(
        60.0
    )  # 20 completions of 300 tokens; the newest row counts
    assert rates.cost(stage("rollouts"), 0) == Cost(0.0)
    assert rates.cost(stage("evaluation/base"), 2) == Cost(6.0)  # samples alike
    assert rates.cost(stage("preflight"), 3) == Cost(3 * 8 * 3.0)  # 4 samples of both roles a question
    assert rates.cost(stage("training"), 5) == Cost(None)  # a step is more than its samples
    assert rates.cost(stage("contexts"), 5) == Cost(None)


def test_lengths_that_nobody_knows_are_bounded() -> None:
    config = settings("rollouts.max_new_tokens=50", "evaluation.max_new_tokens=70")
    assert Rates(config, [ROW], {}).cost(stage("rollouts"), 4) == Cost(2.0, is_upper_bound=True)
    # Of longer completions, cut at 70.
    assert Rates(config, [ROW], {"rollouts": 300.0}).cost(stage("evaluation/base"), 10) == Cost(7.0)
    assert Rates(config, [], {"rollouts": 300.0}).cost(stage("rollouts"), 4) == Cost(None)


def test_seconds_by_the_record_where_nothing_is_sampled() -> None:
    row = {"stage": "contexts", "seconds": 4.0, "num_items": 8, "num_tokens": 0}
    assert Rates(settings(), [row], {}).cost(stage("contexts"), 6) == Cost(3.0)
    assert Rates(settings(), [{**row, "seconds": "4"}, {"stage": 3}], {}).cost(stage("contexts"), 6) == Cost(
        None
    )


def test_the_other_models_pace_serves_where_a_stage_was_never_made() -> None:
    row = {"stage": "evaluation/base_truth", "seconds": 4.0, "num_items": 8, "num_tokens": 0}
    rates = Rates(settings(), [row], {})
    assert rates.cost(stage("evaluation/trained_truth"), 6) == Cost(3.0)
    assert rates.cost(stage("evaluation/general_trained_truth"), 6) == Cost(None)


def test_the_plan_says_where_p_true_is_asked() -> None:
    asked = [Question(question_id="t", domain="a", question="?", split="test")]
    lines = describe_work(settings("training.objective=none", "evaluation.p_true=true"), asked, None)
    assert "evaluation/base_truth: 1 of its own answers, judged by itself (P(True))" in lines
    assert not any(
        "truth" in line for line in describe_work(settings("training.objective=none"), asked, None)
    )


def test_a_stage_too_short_to_time_has_a_rate() -> None:
    row = {"stage": "contexts", "seconds": 0.0, "num_items": 5, "num_tokens": 0}
    assert Rates(settings(), [row], {}).cost(stage("contexts"), 10) == Cost(0.1)


def test_the_pace_of_shards_takes_no_notice_of_a_pause(tmp_path: Path, make_sets) -> None:
    folder = StageFolder(tmp_path / "neurons", "neurons")
    folder.begin({})
    for number, moment in enumerate((100, 104, 112, 1000, 1008)):  # 2, 4, 444 and 4 seconds a record
        folder.add_shard([make_sets(number), make_sets(number)], NeuronSets, index=number)
        os.utime(folder.path / f"part-{number:05d}.parquet", (moment, moment))
    assert shard_pace(folder) == 4.0
    assert Rates(settings(), [ROW], {}).cost(folder, 10) == Cost(40.0)
    folder.finish({})
    assert shard_pace(folder) is None


@pytest.fixture
def make_sets():
    import numpy as np

    def make(number: int) -> NeuronSets:
        return NeuronSets(
            question_id=f"q{number}",
            rollout_index=0,
            num_completion_tokens=3,
            num_chunks=1,
            consensus_score=2,
            consensus_score_per_chunk=2.0,
            neurons_per_layer=(1, 1),
            overlap_set=np.array([1, 5], dtype=np.int32),
        )

    return make


def test_records_of_each_stage() -> None:
    pool = [Question(question_id=f"p{i}", domain="a", question="?") for i in range(10)]
    test = [
        Question(
            question_id=f"t{i}", domain="a", question="?", split="test", choices=("1", "2")[: 2 * (i % 2)]
        )
        for i in range(4)
    ]
    config = settings(
        "rollouts.num_rollouts=3",
        "training.num_steps=2",
        "training.batch_size=5",
        "preflight.num_questions=1",
        "evaluation.general_samples=2",
    )
    counts = count_records(config, [*pool, *test], [*test, *test[:2]], [])
    assert counts["rollouts"] == 30
    assert (counts["neurons"], counts["contexts"], counts["preflight"], counts["training"]) == (10, 2, 1, 10)
    assert (counts["evaluation/base"], counts["evaluation/base_options"]) == (4 * 8, 2)
    assert (counts["evaluation/general_trained"], counts["evaluation/general_kl"]) == (6 * 2, 6)
    assert counts["evaluation/general_base_options"] == 3
    assert not {"demonstrations", "evaluation/contexts"} & counts.keys()


def test_a_run_that_does_not_train_has_no_training() -> None:
    asked = [Question(question_id="t", domain="a", question="?", split="test")]
    assert set(count_records(settings("training.objective=none"), asked, [], [])) == {
        name for name in STAGES_BEFORE if name == "questions" or name.startswith("evaluation/")
    } - {"evaluation/contexts"}


def test_fine_tuning_takes_one_rollout_of_each_question_a_step() -> None:
    config = settings(
        "training.objective=majority_sft",
        "rollouts.num_rollouts=8",
        "training.num_rollouts=8",
        "training.num_steps=3",
        "training.batch_size=4",
        "training.max_epochs=null",
    )
    pool = [Question(question_id=f"p{i}", domain="a", question="?") for i in range(10)]
    assert count_records(config, pool, [], [])["training"] == 3 * 4


def test_seconds_in_words() -> None:
    assert [describe_seconds(s) for s in (0.2, 90, 600, 9000)] == ["1 s", "90 s", "10 min", "2.5 h"]
