"""Several processes, an array job and a Ray cluster give the bytes of one process, kills and interruptions included."""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from end_to_end.fork_run import ForkedRun, WholeRun, differences
from neuron_opsd.neurons.stage import NeuronStage
from neuron_opsd.pipeline import run_stages
from neuron_opsd.rollouts.stage import ZeroShotStage, make_rollouts
from neuron_opsd.run.runners import ProcessRunner
from neuron_opsd.run.session import Run
from neuron_opsd.run.shards import ShardedStage, kept_models
from neuron_opsd.store.run_folder import RunFolder

TWO = ["--num-processes", "2"]
# Stages that start workers. The probabilities of options come with the samples.
SHARDED = ["rollouts", "neurons", "evaluation/base", "evaluation/trained"]


@pytest.fixture
def copy(whole_run: WholeRun, tmp_path: Path) -> Path:
    """A finished run in one process, to lose parts."""
    return Path(shutil.copytree(whole_run.folder, tmp_path / "run"))


def finish(arguments: list[str], log: Path) -> str:
    run = ForkedRun(arguments, log)
    assert run.wait() == 0, log.read_text()
    return log.read_text()


@pytest.mark.slow
def test_two_processes_make_the_missing_shards_alike(whole_run: WholeRun, copy: Path, tmp_path: Path) -> None:
    lost = [copy / "rollouts" / f"part-0000{index}.parquet" for index in (0, 2)]
    lost += [copy / "evaluation" / "trained" / "part-00001.parquet"]
    kept = copy / "rollouts" / "part-00001.parquet"
    before = kept.stat().st_mtime_ns
    for file in lost:
        file.unlink()
    said = finish([*whole_run.command, "--output", str(copy), *TWO], tmp_path / "log")
    assert "rollouts: 2 shards over 2 processes" in said
    assert "evaluation/trained: 1 shards over 1 processes" in said
    assert differences(whole_run.folder, copy) == []
    assert kept.stat().st_mtime_ns == before


def test_a_worker_keeps_its_model_for_the_next_stage_of_the_same_run(copy: Path) -> None:
    run = Run(RunFolder.open(copy))
    first = reopened(ZeroShotStage(run, "rollouts"))
    model, _ = first.run.models.base()
    second = reopened(NeuronStage(run, "neurons"))
    assert second.run is not first.run  # its records are read again
    assert second.run.models.base()[0] is model
    run.folder.write_config(run.config.model_copy(update={"seed": 7}))
    assert reopened(NeuronStage(run, "neurons")).run.models.base()[0] is not model
    kept_models.clear()


@pytest.mark.slow
def test_workers_end_before_the_command_loads_a_model(copy: Path) -> None:
    """They would hold a model each beside it."""
    runner = ProcessRunner(2)
    run = Run(RunFolder.open(copy), runner=runner)
    (copy / "rollouts" / "part-00001.parquet").unlink()
    make_rollouts(run)
    assert len(multiprocessing.active_children()) == 1
    run.models.base()
    assert multiprocessing.active_children() == []

    (copy / "rollouts" / "part-00001.parquet").unlink()
    run_stages(run, until="rollouts")
    assert multiprocessing.active_children() == []  # nothing is left to do


def reopened(stage: ShardedStage) -> ShardedStage:
    """As a worker opens it."""
    return pickle.loads(pickle.dumps(stage))


@pytest.mark.slow
def test_array_tasks_leave_shards_for_the_next_run(whole_run: WholeRun, copy: Path, tmp_path: Path) -> None:
    for name in ("rollouts", "neurons", "evaluation"):
        shutil.rmtree(copy / name)
    for stage in ("rollouts", "neurons", "evaluate"):
        for part in ("1/2", "0/2"):  # in any order
            finish([stage, str(copy), "--shards", part], tmp_path / "log")
        left = {file.parts[-3] for file in copy.rglob("*.inbox/*/part-*.parquet")}
        # Evaluation's samples come with the probabilities of options.
        both = {f"{role}{what}.inbox" for role in ("base", "trained") for what in ("", "_options")}
        assert left == (both if stage == "evaluate" else {f"{stage}.inbox"})
        said = finish([stage, str(copy)], tmp_path / "log")
        assert "(0.0completions/s)" in "".join(
            said.split()
        )  # the log wraps its lines: nothing was left to make
    finish(["report", str(copy)], tmp_path / "log")
    assert differences(whole_run.folder, copy) == []
    assert not list(copy.rglob("*.inbox"))


@pytest.mark.slow
def test_killed_with_its_workers_at_each_stage_and_resumed(whole_run: WholeRun, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    arguments = [*whole_run.command, "--output", str(folder), *TWO]
    num_killed = 0
    for stage in SHARDED:
        run = ForkedRun(arguments, log)
        assert run.wait_for(folder / stage / "part-00000.parquet"), log.read_text()
        workers = [pid for pid, _ in descendants(run.process.pid or 0)]
        num_killed += run.send(signal.SIGKILL) == -signal.SIGKILL
        assert len(workers) >= 2
        wait_until(lambda: not any(is_running(pid) for pid in workers), 20)  # noqa: B023
    assert num_killed == len(SHARDED)
    finish(arguments, log)
    assert differences(whole_run.folder, folder) == []


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_bytes_though_an_actor_is_killed(
    whole_run: WholeRun, copy: Path, tmp_path: Path
) -> None:
    shutil.rmtree(copy / "rollouts")
    (copy / "evaluation" / "base" / "part-00001.parquet").unlink()
    log = tmp_path / "log"
    run = ForkedRun([*whole_run.command, "--output", str(copy), "--runner", "ray", *TWO], log)
    assert run.wait_for(copy / "rollouts" / "part-00001.parquet"), log.read_text()
    actors = [pid for pid, name in descendants(run.process.pid or 0) if "ray::" in name and "Map" in name]
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    manifest = (copy / "rollouts" / "manifest.json").read_text()
    assert '"complete": false' in manifest
    assert run.wait() == 0, log.read_text()
    assert differences(whole_run.folder, copy) == []


@pytest.mark.slow
def test_interrupted_workers_end_and_the_command_resumes(
    whole_run: WholeRun, copy: Path, tmp_path: Path
) -> None:
    """In a process group of its own, as a terminal starts it: all of the group get the signal."""
    shutil.rmtree(copy / "rollouts")
    arguments = [*whole_run.command, "--output", str(copy), *TWO]
    for moment in ("rollouts", "rollouts/part-00000.parquet"):
        for _ in range(
            3
        ):  # on a busy machine a run can end before the signal: begun again, it is interrupted earlier
            process = subprocess.Popen(
                [sys.executable, "-m", "neuron_opsd.cli", *arguments],
                start_new_session=True,
                # a test run started in the background ignores the signal, and its children would too
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                stderr=subprocess.PIPE,
                text=True,
            )
            wait_until((copy / moment).exists, 120)
            workers = [pid for pid, _ in descendants(process.pid)]
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)
            if process.returncode != 0:
                break
            shutil.rmtree(copy / "rollouts")
        assert process.returncode == 130, said
        assert "Traceback" not in said
        wait_until(lambda: not any(is_running(pid) for pid in workers), 10)  # noqa: B023
    finish(arguments, tmp_path / "log")
    assert differences(whole_run.folder, copy) == []


def wait_until(is_true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants(pid: int) -> list[tuple[int, str]]:
    """(process, command line) of all that a process started, whether directly or not."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        todo += children
        for child in children:
            with contextlib.suppress(OSError):
                found.append((child, Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")))
    return found
