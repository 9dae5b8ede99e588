"""Workers of one machine: every shard once, failures and deaths told with their shard, and none left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from neuron_opsd.errors import DataError, WorkerError
from neuron_opsd.progress import listening
from neuron_opsd.run.runners import InProcessRunner, ProcessRunner, make_runner
from neuron_opsd.run.runners.processes import worker_options
from run.runners.toy_work import ToyWork


def test_every_shard_once_with_progress_from_all_workers(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    work = ToyWork(tmp_path, sleeps=0.3)
    told: list[int] = []
    with listening(lambda tokens, doing: told.append(tokens)):
        entries = list(ProcessRunner(2).run(work, [0, 3, 4, 7], lambda *counts: seen.append(counts)))
    assert sorted(told) == [0, 30, 40, 70]
    assert sorted(entry["index"] for entry in entries) == [0, 3, 4, 7]
    assert sorted(seen) == [(2, 0), (2, 30), (2, 40), (2, 70)]
    pids = {entry["pid"] for entry in entries}
    assert os.getpid() not in pids
    assert (tmp_path / "threads-1").exists()
    assert multiprocessing.active_children() == []  # the runner is gone, and they with it


def make(runner: ProcessRunner, work: ToyWork, indices: list[int]) -> set[int]:
    """The workers that made these shards."""
    return {entry["pid"] for entry in runner.run(work, indices, lambda *_: None)}


def test_workers_stay_for_the_next_stage_until_their_memory_is_needed(tmp_path: Path) -> None:
    runner, work = ProcessRunner(2), ToyWork(tmp_path, sleeps=0.3)
    first = make(runner, work, [0])
    both = make(runner, replace(work, name="next"), [0, 1])
    assert len(both) == 2
    assert first < both
    assert make(runner, replace(work, num_threads=3), [0, 1]).isdisjoint(both)  # other threads, other bytes
    assert (tmp_path / "threads-3").exists()
    runner.release()
    assert multiprocessing.active_children() == []
    assert len(make(runner, work, [0, 1])) == 2


def test_a_worker_that_died_while_it_waited_is_replaced(tmp_path: Path) -> None:
    runner, work = ProcessRunner(1), ToyWork(tmp_path)
    (pid,) = make(runner, work, [0])
    os.kill(pid, signal.SIGKILL)
    while multiprocessing.active_children():
        time.sleep(0.01)
    (other,) = make(runner, work, [1])
    assert other != pid


def test_a_stage_that_fails_leaves_no_worker_and_the_runner_can_go_on(tmp_path: Path) -> None:
    runner, work = ProcessRunner(2), ToyWork(tmp_path)
    with pytest.raises(DataError, match="toy, shard 1"):
        make(runner, replace(work, fails=1), [0, 1])
    assert multiprocessing.active_children() == []
    assert make(runner, work, [0])


def test_a_workers_error_names_its_shard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="toy, shard 1: line 3 is no question"):
        list(ProcessRunner(2).run(ToyWork(tmp_path, fails=1), [0, 1, 2], lambda *_: None))
    assert multiprocessing.active_children() == []


def test_a_workers_death_names_shard_and_signal(tmp_path: Path) -> None:
    with pytest.raises(
        WorkerError, match=r"shard 2 died \(SIGKILL, often because the machine ran out of memory\)"
    ):
        list(ProcessRunner(2).run(ToyWork(tmp_path, dies=2), [0, 1, 2], lambda *_: None))
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom run.runners.toy_work import ToyWork\n"
        "from neuron_opsd.run.runners import ProcessRunner\n"
        "if __name__ == '__main__':\n"
        f"    list(ProcessRunner(2).run(ToyWork(Path({str(tmp_path)!r}), sleeps=600), [0, 1], print))"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 120
    while len(pids := [int(file.name[6:]) for file in tmp_path.glob("begun-*")]) < 2:
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_threads_are_shared_out_by_the_number_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    free = ToyWork(tmp_path, num_threads=None)
    assert worker_options(free, 3) == [{"num_threads": 2, "gpu": None}] * 3
    assert worker_options(free, 9)[0]["num_threads"] == 1  # never none
    assert worker_options(ToyWork(tmp_path, num_threads=5), 3)[0]["num_threads"] == 5  # the setting wins


def test_gpus_go_round_as_cuda_visible_devices_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    work = ToyWork(tmp_path, device="auto")
    assert [option["gpu"] for option in worker_options(work, 3)] == ["5", "GPU-abc", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [option["gpu"] for option in worker_options(work, 2)] == ["0", "1"]
    one_device = ToyWork(tmp_path, device="cuda:1")  # the user's choice, for all
    assert [option["gpu"] for option in worker_options(one_device, 2)] == [None, None]


def test_one_process_is_this_one() -> None:
    assert isinstance(make_runner("local", 1), InProcessRunner)
    assert isinstance(make_runner("local", 2), ProcessRunner)
