"""A disk that fills, and one that cannot be written: a clear error, nothing finished lost, and the run goes on."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from end_to_end.fork_run import BEGINS, ForkedRun, WholeRun, artefacts, differences, shards_of

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip(
            "no leave to mount a tmpfs here: the disk that fills is proved by the file size limit alone"
        )
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(disk: Path, *, free_pages: int) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (os.statvfs(disk).f_bavail - free_pages) * PAGE)
    yield
    filler.unlink()


def assert_explained(run: ForkedRun, stage: str) -> None:
    """Status 2, one sentence that names the place and the next step, no traceback."""
    status, said = run.wait(), run.log.read_text()
    assert status == 2, f"{stage}: {said}"
    assert "error: Cannot write to" in said
    assert "the same command resumes" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_disk_that_fills_at_each_stage(whole_run: WholeRun, disk: Path, tmp_path: Path) -> None:
    """Each stage gets twice the room of the attempt before, from nothing, until it fits."""
    folder, refusals = disk / "run", dict.fromkeys(BEGINS, 0)
    for stage in BEGINS:
        until = [*whole_run.command, "--output", str(folder), "--until", stage]
        free_pages = 0
        while True:
            finished = shards_of(folder)
            with filled(disk, free_pages=free_pages):
                run = ForkedRun(until, tmp_path / "log")
                if run.wait() == 0:
                    break
                assert_explained(run, stage)
            assert finished.items() <= shards_of(folder).items()
            refusals[stage] += 1
            free_pages = max(1, 2 * free_pages)
    print("refusals for want of room:", refusals)  # noqa: T201
    assert all(refusals.values()), refusals
    assert differences(whole_run.folder, folder) == []


def test_a_disk_that_fills_once(whole_run: WholeRun, disk: Path, tmp_path: Path) -> None:
    until = [*whole_run.command, "--output", str(disk / "run"), "--until", "rollouts"]
    with filled(disk, free_pages=8):
        assert_explained(ForkedRun(until, tmp_path / "log"), "rollouts")
    assert ForkedRun(until, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    assert artefacts(disk / "run").items() <= artefacts(whole_run.folder).items()


@pytest.mark.slow
def test_a_limit_on_file_sizes(whole_run: WholeRun, tmp_path: Path) -> None:
    """The second way to a write that fails, where nothing may be mounted: checkpoint, then model."""
    arguments = [*whole_run.command, "--output", str(tmp_path / "run")]
    for limit in (2**15, 2**17, 2**18):
        assert_explained(ForkedRun(arguments, tmp_path / "log", max_file_bytes=limit), f"limit {limit}")
    assert ForkedRun(arguments, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    assert differences(whole_run.folder, tmp_path / "run") == []


def test_a_folder_that_cannot_be_written(whole_run: WholeRun, disk: Path, tmp_path: Path) -> None:
    folder = disk / "run"
    arguments = [*whole_run.command, "--output", str(folder), "--until", "contexts"]
    assert ForkedRun(arguments, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        run = ForkedRun(arguments, tmp_path / "log")
        assert_explained(run, "read-only")
        assert "Read-only file system" in run.log.read_text()
        question = (folder / "contexts" / "records.jsonl").read_text().split('"')[3]
        shown = ForkedRun(["show", str(folder), question], tmp_path / "show.log")
        assert shown.wait() == 0, shown.log.read_text()  # what only reads still works
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
