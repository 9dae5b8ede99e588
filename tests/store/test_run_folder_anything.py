"""Whatever becomes of a stage's files, what is read is what was written, or an error; and it can be made again."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malformed import result_or_message, spoiled
from neuron_opsd.records import Rollout
from neuron_opsd.store.files import read_json_lines
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.stage_folder import StageFolder

INPUTS = {"temperature": 0.6, "questions": "0123456789abcdef"}
SHARDS = [
    [
        Rollout(
            question_id=f"q{shard}-{i}",
            rollout_index=i,
            choice_order=(1, 0),
            prompt_ids=(1, 2, 3),
            completion_ids=(4, 5),
            token_log_probs=(-0.5, -1.5),
            finish_reason="stop",
            reply="yes",
            answer="A" if i else None,
        )
        for i in range(3)
    ]
    for shard in range(2)
]
RECORDS = [record for shard in SHARDS for record in shard]


def make(stage: StageFolder) -> None:
    for index in stage.begin(INPUTS, len(SHARDS)):
        stage.add_shard(SHARDS[index], Rollout, index)
    stage.finish({"num": len(RECORDS)}, Rollout)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    make(RunFolder(tmp_path / "good").stage("rollouts"))
    return tmp_path / "good"


@pytest.mark.parametrize("name", ["manifest.json", "part-00001.parquet"])
@settings(max_examples=60)
@given(data=st.data())
def test_a_spoiled_stage_is_never_read_wrongly_and_is_remade(good, name, data):
    bad = good.with_name("bad")
    shutil.rmtree(bad, ignore_errors=True)
    shutil.copytree(good, bad)
    file, stage = bad / "rollouts" / name, RunFolder(bad).stage("rollouts")
    file.write_bytes(data.draw(spoiled(file.read_bytes())))
    is_finished = stage.is_finished(INPUTS)
    found, message = result_or_message(lambda: (stage.read(Rollout), stage.summary()))
    assert is_finished == (found == (RECORDS, {"num": len(RECORDS)}))
    assert found or "rollouts" in message
    make(stage)
    assert stage.read(Rollout) == RECORDS


@settings(max_examples=200)
@given(data=spoiled(b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n{"step": 3, "loss": 0.125}\n'))
def test_spoiled_rows_are_read_or_named(tmp_path, caplog, data):
    (tmp_path / "metrics.jsonl").write_bytes(data)
    caplog.clear()
    rows = read_json_lines(tmp_path / "metrics.jsonl")
    assert all(isinstance(row, dict) for row in rows)
    assert len(rows) + len(caplog.records) == data.count(b"\n")


@settings(max_examples=200)
@given(data=spoiled(b'{"in": {"accuracy": 0.5}, "verdicts": []}') | st.binary(max_size=30))
def test_a_spoiled_file_of_figures_counts_as_missing(tmp_path, data):
    (tmp_path / "results.json").write_bytes(data)
    found = RunFolder(tmp_path).read_json("results.json")
    assert found is None or isinstance(found, dict)


def test_what_a_killed_worker_left_unwritten_is_gone_when_the_stage_is_finished(tmp_path: Path) -> None:
    stage = RunFolder.create(tmp_path / "run").stage("rollouts")
    stage.begin(INPUTS, len(SHARDS))
    left = stage.path / ".part-00000.parquet.5376.tmp"
    left.write_bytes(b"half")
    make(stage)
    assert not left.exists()
