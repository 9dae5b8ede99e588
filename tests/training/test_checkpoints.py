"""A checkpoint is whole or not used: damage is named, the one before takes over, and no bit of the result differs."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from training_runs import EXACT, assert_same_bits, relative_difference, run

from neuron_opsd.errors import RunFolderError
from neuron_opsd.training.checkpoints import (
    STAGING,
    last_complete_checkpoint,
    publish_checkpoint,
    saving,
)
from neuron_opsd.training.figures import MetricsFile

OPTIONS = {
    "steps": 4,
    "method": "lora",
    "teacher": "ema",
    "ema_rate": 0.3,
    "micro_batch_size": 4,
    "num_layers": 1,
}


def stage(folder: Path, step: int) -> Path:
    staged = folder / STAGING / f"checkpoint-{step}"
    (staged / "inner").mkdir(parents=True)
    (staged / "trainer_state.json").write_text("{}")
    (staged / "inner" / "weights").write_bytes(bytes(range(256)))
    return staged


def publish(folder: Path, *steps: int, limit: int | None = None) -> None:
    for step in steps:
        publish_checkpoint(stage(folder, step), folder, limit=limit)


def test_newest_by_number_is_used(tmp_path):
    assert last_complete_checkpoint(tmp_path / "none") is None
    publish(tmp_path, 9, 10)
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_only_the_newest_stay(tmp_path):
    publish(tmp_path, 8, 9, 10, limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [STAGING, "checkpoint-10", "checkpoint-9"]


def test_what_is_only_staged_does_not_count(tmp_path):
    publish(tmp_path, 2)
    stage(tmp_path, 4)
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["trainer_state.json", "inner/weights", "checksums.json"])
@pytest.mark.parametrize(
    "harm", [flip, Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-3]), lambda f: f.write_text("[]")]
)  # fmt: skip
def test_damage_is_named_and_the_one_before_is_used(tmp_path, caplog, name, harm):
    publish(tmp_path, 2, 4)
    harm(tmp_path / "checkpoint-4" / name)
    with caplog.at_level(logging.WARNING):
        assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-4").exists()
    assert "checkpoint-4 is damaged" in caplog.text
    if name != "checksums.json":
        assert name in caplog.text


@pytest.mark.parametrize(
    "file",
    [
        "adapter_model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "teacher_weights.safetensors",
        "metrics.jsonl",
    ],
)
def test_training_past_a_damaged_checkpoint_changes_no_bit(tmp_path, tmp_path_factory, file):
    whole_folder, whole = whole_run(tmp_path_factory)
    shutil.copytree(whole_folder, tmp_path / "cut")
    flip(tmp_path / "cut" / "checkpoint-4" / file)
    (tmp_path / "cut" / "metrics.jsonl").write_text('{"step": 1, "lo\nnull\n[]\n')
    assert_same_bits(run(tmp_path / "cut", **OPTIONS), whole)
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (whole_folder / "metrics.jsonl").read_bytes()


def test_a_checkpoint_goes_on_with_other_micro_batches(tmp_path):
    options = {**EXACT, "steps": 4, "method": "lora", "save_steps": 2}
    whole = run(tmp_path / "run", micro_batch_size=8, **options)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    trainer = {**EXACT["trainer"], "gradient_checkpointing": True}
    resumed = run(tmp_path / "run", micro_batch_size=2, **{**options, "trainer": trainer})
    assert relative_difference(resumed, whole) < 1e-6


def whole_run(factory, kept={}):  # noqa: B006
    if not kept:
        folder = factory.mktemp("whole")
        kept["run"] = folder, run(folder, **OPTIONS)
    return kept["run"]


def test_metrics_go_on_from_the_rows_of_the_checkpoint(tmp_path):
    first = MetricsFile(tmp_path / "metrics.jsonl", checkpoint=None)
    first.append({"step": 1})
    (tmp_path / "checkpoint-1").mkdir()
    first.copy_into(tmp_path / "checkpoint-1")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nno JSON\n{"step": 2}\n{"st')
    MetricsFile(tmp_path / "metrics.jsonl", checkpoint=tmp_path / "checkpoint-1").append({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    MetricsFile(tmp_path / "metrics.jsonl", checkpoint=None)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_explained_in_torch_s_words_too(tmp_path):
    with (
        pytest.raises(RunFolderError, match=r"Cannot write to .*inline_container.* resumes"),
        saving(tmp_path),
    ):
        torch.save({"weights": torch.zeros(1000)}, "/dev/full")


def test_a_disk_that_fills_as_a_file_is_closed_is_explained(tmp_path):
    with pytest.raises(RunFolderError, match=r"Cannot write to .*iostream error.* resumes"), saving(tmp_path):
        raise RuntimeError("basic_ios::clear: iostream error")  # as torch.save says it, seen on a full tmpfs


def test_what_is_no_matter_of_the_disk_is_not_called_so(tmp_path):
    with pytest.raises(RuntimeError, match="Connection closed by peer"), saving(tmp_path):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:3406")
