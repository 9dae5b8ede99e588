"""experiments/gpu.sh: its command line, and both calls at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "gpu.sh"


def gpu(work: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script with a work folder of its own."""
    own = {"NEURON_OPSD_GPU_WORK": str(work), "PYTHON": sys.executable}
    environment = {name: value for name, value in os.environ.items() if name != "OUT"}
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        capture_output=True,
        text=True,
        env=environment | own | variables,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nonsense",), "no command 'nonsense'"),
        (("--fast", "tests"), "no option --fast"),
        (("tests", "--results"), "--results needs a value"),
        (("tests", "--wheels", "nowhere"), "--wheels nowhere is no folder"),
        (("tests", "more"), "tests takes no 'more'"),
        (("prepare",), "prepare needs one folder"),
    ],
)
def test_a_mistake_ends_with_one_message(tmp_path, words, told):
    done = gpu(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu.sh: ")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    done = gpu(tmp_path, "shapes")
    assert (done.returncode, "torch sees no GPU here. Use --toy" in done.stderr) == (2, True)


def test_an_absent_python_is_named(tmp_path):
    done = gpu(tmp_path, "tests", PYTHON="/no/python")
    assert (done.returncode, "no /no/python" in done.stderr) == (2, True)


def test_help_names_both_calls(tmp_path):
    told = gpu(tmp_path, "--help").stdout
    assert "gpu.sh tests" in told
    assert "gpu.sh shapes" in told


@pytest.mark.slow
def test_both_calls_at_toy_size(tmp_path):
    out = tmp_path / "out"
    for call in ("tests", "shapes"):
        done = gpu(tmp_path, call, "--toy", "--results", str(out))
        assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in (out / "tests.txt").read_text()
    rows = json.loads((out / "shapes.json").read_text())["rows"]
    assert [row["stage"] for row in rows[:4]] == ["neurons", "training", "sampling", "evaluation"]
    assert all(row["result"] != "not measured" for row in rows)
    assert json.loads((out / "environment.json").read_text())["packages"]["torch"]
