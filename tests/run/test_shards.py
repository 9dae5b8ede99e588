"""Shards by index: in any order, damaged ones alone remade, and those of array tasks gathered once."""

from pathlib import Path

import pytest

from neuron_opsd.errors import RunFolderError
from neuron_opsd.records import Question
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.stage_folder import StageFolder

INPUTS = {"seed": 1}


def questions(index: int) -> list[Question]:
    return [Question(question_id=f"q{index}-{i}", domain="d", question="?") for i in range(2)]


def stage_with(tmp_path: Path, *indices: int) -> StageFolder:
    stage = StageFolder(tmp_path / "rollouts", "rollouts")
    stage.begin(INPUTS, 4)
    for index in indices:
        stage.add_shard(questions(index), Question, index)
    return stage


def test_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, order in (("a", (0, 1, 2, 3)), ("b", (2, 0, 3, 1))):
        stage_with(tmp_path / name, *order).finish({}, Question)
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name / "rollouts").iterdir()} for name in "ab"
    )
    assert first == second
    records = StageFolder(tmp_path / "b" / "rollouts", "rollouts").read(Question)
    assert records == [question for index in range(4) for question in questions(index)]


def test_a_whole_stage_is_finished_for_its_own_inputs_alone(tmp_path: Path) -> None:
    stage = stage_with(tmp_path, 0, 1)
    assert not stage.is_finished(INPUTS)
    with pytest.raises(RunFolderError, match="not finished"):
        stage.require(INPUTS)
    stage.finish({}, Question)
    assert stage.is_finished()
    assert stage.is_finished(INPUTS)
    assert not stage.is_finished({"seed": 2})
    with pytest.raises(RunFolderError, match="seed was 1 and is 2"):
        stage.require({"seed": 2})
    manifest = stage.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_records": 4', '"num_records": 5', 1))
    assert not stage.is_finished()


def test_only_missing_and_damaged_shards_are_remade(tmp_path: Path) -> None:
    stage = stage_with(tmp_path, 3, 0, 1)
    assert stage.begin(INPUTS, 4) == [2]
    (stage.path / "part-00000.parquet").write_bytes(b"PAR1")
    assert stage.begin(INPUTS, 4) == [0, 2]
    assert stage.read_shard(3, Question) == questions(3)
    with pytest.raises(RunFolderError, match="no shard 2"):
        stage.read_shard(2, Question)
    assert stage.begin({"seed": 2}, 4) == [0, 1, 2, 3]


def test_shards_of_array_tasks_are_gathered(tmp_path: Path) -> None:
    stage = stage_with(tmp_path, 0)
    inbox = stage.inbox(INPUTS)
    for index in (3, 1, 2):
        inbox.enter(inbox.write_shard(index, questions(index), Question))
    (inbox.path / "part-00002.parquet").write_bytes(b"cut")  # a disk that lost it
    assert inbox.missing([1, 2, 3]) == [2]
    stale = stage.inbox({"seed": 2})
    stale.enter(stale.write_shard(2, questions(9), Question))  # made from other inputs
    assert stage.begin(INPUTS, 4) == [2]
    assert stage.read_shard(3, Question) == questions(3)
    assert not inbox.path.parent.exists()


def test_gathering_survives_a_kill_between_move_and_manifest(tmp_path: Path) -> None:
    stage = stage_with(tmp_path, 0)
    inbox = stage.inbox(INPUTS)
    inbox.enter(inbox.write_shard(1, questions(1), Question))
    (inbox.path / "part-00001.parquet").rename(stage.path / "part-00001.parquet")
    assert stage.begin(INPUTS, 4) == [2, 3]


def test_tasks_share_the_lock_and_exclude_the_gathering_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.locked(shared=True), RunFolder(tmp_path).locked(shared=True):
        half_written = tmp_path / ".part.1.tmp"
        half_written.touch()
        with RunFolder(tmp_path).locked(shared=True):
            assert half_written.exists()  # another task may be writing it
        with pytest.raises(RunFolderError, match="in use by process"), run.locked():
            pass
    with run.locked():
        assert not half_written.exists()
        with pytest.raises(RunFolderError, match="in use by process"), run.locked(shared=True):
            pass


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ({"m": {"a": 0}}, {"m": {"a": False}}, "m.a was 0 and is False"),
        ({"m": {"a": 1}}, {"m": {"a": 1.0}}, "m.a was 1 and is 1.0"),
        ({"m": {}}, {}, "m was {} and is absent"),
        ({}, {"m": None}, "m was absent and is None"),
    ],
)
def test_inputs_that_python_calls_equal_are_others_and_said_to_be(
    tmp_path: Path, old: dict, new: dict, why: str
) -> None:
    """A template that asks whether a flag `is false` writes another prompt for 0."""
    stage = StageFolder(tmp_path / "rollouts", "rollouts")
    stage.begin(old)
    stage.add_shard(questions(0), Question)
    stage.finish({}, Question)
    assert stage.why_again(old) is None
    assert stage.why_again(new) == why
    assert stage.begin(old) == []
    assert stage.begin(new) == [0]
