"""A disk that fills, and one that cannot be written: a clear error, nothing finished lost, and the run goes on."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from end_to_end.fork_run import ForkedRun, WholeRun, artefacts

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


def test_a_disk_that_fills_once(whole_run: WholeRun, disk: Path, tmp_path: Path) -> None:
    until = [*whole_run.command, "--output", str(disk / "run"), "--until", "rollouts"]
    with filled(disk, free_pages=8):
        assert_explained(ForkedRun(until, tmp_path / "log"), "rollouts")
    assert ForkedRun(until, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    assert artefacts(disk / "run").items() <= artefacts(whole_run.folder).items()


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
