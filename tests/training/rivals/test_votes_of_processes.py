"""A group's vote is over all of it, on one process and where two of them (torchrun, gloo) share the group."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_opsd.text.answers import answers_match, majority_answer

HERE = Path(__file__).parent


def rewarded(folder: Path, num_processes: int) -> list[dict]:
    """What each process was given."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")])
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_processes)]
    command += ["--master-port", str(random.randint(20_000, 40_000)), str(HERE / "two_processes_vote.py")]
    done = subprocess.run(
        [*command, str(folder)], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(num_processes)]


def vote(answers: list[str | None]) -> str | None:
    return majority_answer(answers, skip_unparsable=True).answer


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_vote_is_over_the_whole_group(tmp_path: Path, num_processes: int) -> None:
    told = rewarded(tmp_path, num_processes)
    groups: dict[int, list[list]] = {}  # of each group, what each process that has a part of it has
    for one in told:
        for group in {group for group, _, _ in one["given"]}:
            groups.setdefault(group, []).append([row[1:] for row in one["given"] if row[0] == group])
    assert len(groups) == 12
    changed = 0
    for parts in groups.values():
        answers = [answer for part in parts for answer, _ in part]
        label = vote(answers)
        assert len(answers) == 8
        for part in parts:
            assert [reward for _, reward in part] == [
                float(answers_match(answer, label)) for answer, _ in part
            ]
            changed += vote([answer for answer, _ in part]) != label
    split = [parts for parts in groups.values() if len(parts) == 2]
    assert len(split) == (4 if num_processes == 2 else 0)  # the middle one of a step's three groups
    assert (changed > 0) == (num_processes == 2)  # a part's own vote would have been another one
    everything = [answer for parts in groups.values() for part in parts for answer, _ in part]
    assert {None, "7", "8", "8.0"} <= set(everything)
    assert all(one["rows"] == told[0]["rows"] for one in told)  # every process knows the whole step's figures
