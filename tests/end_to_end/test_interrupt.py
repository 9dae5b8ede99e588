"""SIGINT, and two processes on one run."""

import os
import signal
from pathlib import Path

from end_to_end.fork_run import BEGINS, ForkedRun, WholeRun, differences, shards_of


def test_ctrl_c_at_each_stage_ends_with_a_sentence_and_resumes(whole_run: WholeRun, tmp_path: Path) -> None:
    folder, log, num_interrupted = tmp_path / "run", tmp_path / "log", 0
    arguments = [*whole_run.command, "--output", str(folder)]
    for begins in BEGINS.values():
        finished = shards_of(folder)
        run = ForkedRun(arguments, log)
        assert run.wait_for(folder / begins)
        status = run.send(signal.SIGINT)
        said = log.read_text()
        assert "Traceback" not in said
        assert status in (0, 130)  # 0: the report was written before the signal came
        if status == 130:
            num_interrupted += 1
            assert said.endswith("interrupted. The same command resumes where this one stopped\n")
        assert finished.items() <= shards_of(folder).items()
    assert num_interrupted >= 6
    assert ForkedRun(arguments, log).wait() == 0, log.read_text()
    assert differences(whole_run.folder, folder) == []


def test_a_second_process_is_refused_until_the_first_dies(whole_run: WholeRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*whole_run.command, "--output", str(folder), "--until", "rollouts"]
    first = ForkedRun(arguments, tmp_path / "first.log")
    assert first.wait_for(folder / "rollouts")
    os.kill(first.process.pid or 0, signal.SIGSTOP)  # hold it there
    second = ForkedRun(arguments, tmp_path / "second.log")
    assert second.wait() == 2
    assert f"is in use by process {first.process.pid} on " in (tmp_path / "second.log").read_text()
    assert first.send(signal.SIGKILL) == -signal.SIGKILL
    third = ForkedRun(arguments, tmp_path / "third.log")
    assert third.wait() == 0, third.log.read_text()
