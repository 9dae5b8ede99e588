"""kill -9 at random moments of every stage; the same command ends with the bytes of an uninterrupted run."""

import random
import signal
import time
from pathlib import Path

import pytest

from end_to_end.fork_run import BEGINS, ForkedRun, WholeRun, differences, shards_of

KILLS_A_FOLDER = 5


@pytest.mark.parametrize("num_kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_and_resumed(whole_run: WholeRun, tmp_path: Path, num_kills: int) -> None:
    seed, hits, number = f"{num_kills} kills", [], 0
    moments = random.Random(seed)
    while len(hits) < num_kills:
        folder, number = tmp_path / f"killed-{number}", number + 1
        hits += kill_and_resume(whole_run, folder, moments, most=num_kills - len(hits))
        assert differences(whole_run.folder, folder) == [], f"seed {seed!r}, after {hits}"
    print(f"seed {seed!r}: {num_kills} kills in {number} folders", *hits, sep="\n")  # noqa: T201


def kill_and_resume(whole: WholeRun, folder: Path, moments: random.Random, *, most: int) -> list[str]:
    """Kill one run several times, let it finish, and check that no finished shard was made twice.

    Returns:
        Each kill in words; a run that ended before its kill came counts as none.
    """
    arguments, log = [*whole.command, "--output", str(folder)], folder.with_suffix(".log")
    hits: list[str] = []
    finished: dict[Path, tuple[int, int]] = {}
    for stage in sorted(moments.sample(list(BEGINS), k=min(KILLS_A_FOLDER, most)), key=list(BEGINS).index):
        run, pause = ForkedRun(arguments, log), moments.uniform(0, whole.seconds[stage])
        run.wait_for(folder / BEGINS[stage])
        time.sleep(pause)
        if run.send(signal.SIGKILL) == -signal.SIGKILL:
            hits.append(f"{folder.name}, {stage}: {pause:.3f} s after {BEGINS[stage]} was there")
        assert finished.items() <= shards_of(folder).items(), hits
        finished = shards_of(folder)
    assert ForkedRun(arguments, log).wait() == 0, log.read_text()
    assert finished.items() <= shards_of(folder).items(), hits
    return hits
