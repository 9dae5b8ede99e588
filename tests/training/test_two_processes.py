"""DDP and FSDP2 on two processors: the weights of one process, and one process goes on from their checkpoint."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_runs import RUNS, weights

import neuron_opsd

HERE = Path(__file__).parent
SHIPPED = Path(neuron_opsd.__file__).parent / "recipes/accelerate/fsdp2.yaml"
pytestmark = pytest.mark.slow


def environment(kind: str) -> dict[str, str]:
    """As `accelerate launch` hands the shipped configuration on."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    if kind == "fsdp2":
        settings = yaml.safe_load(SHIPPED.read_text())["fsdp_config"]
        found |= {
            "ACCELERATE_USE_FSDP": "true",
            **{name.upper(): str(value) for name, value in settings.items()},
        }
    return found


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def two(request, tmp_path_factory) -> Path:
    """The runs as two processes made them."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    command += [str(random.randint(20_000, 40_000)), str(HERE / "two_processes.py"), str(folder)]
    done = subprocess.run(
        [*command, "full", "lora", "own group", "orders", "orders, lora", "adam, 2 steps"],
        env=environment(request.param), capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # one factor of an adapter begins at zero and is small still: rounding weighs more there
        limit = 1e-5 if "lora_B" in name else 1e-6
        assert (found[name] - value).norm() <= limit * value.norm(), name


@pytest.mark.parametrize("name", ["full", "lora", "own group", "orders", "orders, lora"])
def test_two_processes_are_one(two, tmp_path, name):
    """The loss is over the tokens of all, votes are over whole groups."""
    assert_alike(load_file(two / f"{name}.safetensors"), weights(RUNS[name](tmp_path)))


def test_one_process_goes_on_where_two_stopped(two, tmp_path):
    shutil.copytree(two / "adam, 2 steps", tmp_path / "taken over")
    is_sharded = (tmp_path / "taken over/checkpoint-2/optimizer.bin").exists()
    assert is_sharded == two.name.startswith("fsdp2")
    resumed = RUNS["adam, 4 steps"](tmp_path / "taken over")
    assert not (tmp_path / "taken over/checkpoint-2/optimizer.bin").exists()
    assert_alike(weights(resumed), weights(RUNS["adam, 4 steps"](tmp_path / "whole")))
