"""`accelerate launch ... train RUN` on two processes: the published weights are those of one, and one can take over."""

import importlib.resources
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from end_to_end.fork_run import ForkedRun
from end_to_end.tiny_run import SMALL
from neuron_opsd.store.run_folder import RunFolder

CONFIGS = importlib.resources.files("neuron_opsd") / "recipes" / "accelerate"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def forked(log: Path, *words: str) -> str:
    """What a run in one process says, its lines unwrapped."""
    assert ForkedRun([*words], log).wait() == 0, log.read_text()
    return " ".join(log.read_text().split())


def launched(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The shipped DDP configuration, on processors."""
    config = yaml.safe_load((CONFIGS / "ddp.yaml").read_text())
    config |= {
        "distributed_type": "MULTI_CPU",
        "use_cpu": True,
        "main_process_port": random.randint(20_000, 40_000),
    }
    file = tmp_path / "ddp.yaml"
    file.write_text(yaml.safe_dump(config))
    start = ("accelerate.commands.launch", "--config_file", str(file), "-m", "neuron_opsd.cli")
    return subprocess.run(
        [sys.executable, "-m", *start, *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def prepared(tmp_path: Path, model: Path, questions: Path, **more: str) -> Path:
    """A run up to its contexts."""
    run = tmp_path / "prepared"
    settings = [*SMALL, *(f"{name}={value}" for name, value in more.items())]
    asked = ["--model", str(model), "--questions", str(questions), "--output", str(run)]
    forked(tmp_path / "log", "run", "neuron_opsd", *settings, *asked, "--until", "contexts")
    return run


def published(run: Path) -> dict:
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.slow
def test_two_processes_publish_what_one_does_and_one_can_take_over(
    tmp_path, tiny_model_folder, question_files
):
    first = prepared(tmp_path, tiny_model_folder, question_files[0], **{"training.micro_batch_size": "1"})
    second, third = shutil.copytree(first, tmp_path / "two"), tmp_path / "taken over"
    forked(tmp_path / "log", "train", str(first))
    done = launched(tmp_path, "train", str(second))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("first student prompt") == 1
    assert_alike(published(second), published(first))
    both = [(run / "training/metrics.jsonl").read_text().count("\n") for run in (first, second)]
    assert both == [3, 3]
    timings = RunFolder(second).timings()
    assert [row["stage"] for row in timings].count("training") == 1

    # As if both had been killed after step 2: the checkpoint is two processes', the rest is one's.
    shutil.copytree(second, third)
    shutil.rmtree(third / "model")
    shutil.rmtree(third / "training/checkpoint-3", ignore_errors=True)
    assert "resumes at step 2 of 3" in forked(tmp_path / "log", "train", str(third))
    assert_alike(published(third), published(first))


def assert_alike(found: dict, expected: dict) -> None:
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-6 * value.norm(), name


def test_other_stages_refuse_several_processes_and_say_what_to_do(command, tmp_path, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    one = ForkedRun([*command, "--output", str(tmp_path / "run")], tmp_path / "log")
    assert one.wait() == 2
    said = " ".join(one.log.read_text().split())
    assert "only `train` shares its work" in said
    assert "accelerate launch -m neuron_opsd.cli train RUN" in said


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero3"])
def test_shipped_configurations_are_what_accelerate_reads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.num_processes == 2
