"""A shared cache that others have written to, or killed processes have left: what is taken, what is removed."""

import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_stage_cache import INPUTS, Line, made
from typer.testing import CliRunner

from neuron_opsd.cli import app
from neuron_opsd.errors import RunFolderError
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.stage_cache import LEFTOVER_SECONDS, StageCache
from neuron_opsd.store.stage_folder import StageFolder, fingerprint_of

SHARD = "part-00000.parquet"


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    cache = StageCache(tmp_path / "cache")
    cache.publish(made(tmp_path / "a"), tmp_path / "a")
    return cache


@pytest.fixture
def entry(cache: StageCache) -> Path:
    return cache.entries()[0].path


def take(cache: StageCache, tmp_path: Path) -> bool:
    return cache.take(StageFolder(tmp_path / "b" / "rollouts", "rollouts"), INPUTS)


def link_shard(entry: Path) -> None:
    (entry / SHARD).rename(entry.parents[2] / "elsewhere.parquet")
    (entry / SHARD).symlink_to(entry.parents[2] / "elsewhere.parquet")


def link_entry(entry: Path) -> None:
    entry.rename(entry.parents[2] / "elsewhere")
    entry.symlink_to(entry.parents[2] / "elsewhere")


def pipe(name: str) -> Callable[[Path], None]:
    def put(entry: Path) -> None:
        (entry / name).unlink()
        os.mkfifo(entry / name)

    return put


def name_a_file_outside(entry: Path) -> None:
    manifest = json.loads((entry / "manifest.json").read_text())
    del manifest["checksum"]
    (entry / SHARD).rename(entry.parent / "secret")
    manifest["shards"][0]["file"] = "../secret"
    (entry / "manifest.json").unlink()
    (entry / "manifest.json").write_text(json.dumps(manifest | {"checksum": fingerprint_of(manifest)}))
    (entry / "manifest.json").chmod(0o444)


HARMS: dict[str, Callable[[Path], object]] = {
    "a shard by symlink": link_shard,
    "the entry by symlink": link_entry,
    "a pipe for a shard": pipe(SHARD),
    "a pipe for the manifest": pipe("manifest.json"),
    "a pipe for the eye's records": pipe("records.jsonl"),
    "a file outside": name_a_file_outside,
    "a folder others may write": lambda entry: entry.chmod(0o777),
    "a folder the group may write": lambda entry: entry.chmod(0o775),
    "a shard others may write": lambda entry: (entry / SHARD).chmod(0o646),
    "another's shard": lambda entry: os.chown(entry / SHARD, 12345, 12345),
    "another's entry": lambda entry: os.chown(entry, 12345, 12345),
    "another's manifest": lambda entry: os.chown(entry / "manifest.json", 12345, 12345),
    "no manifest": lambda entry: (entry / "manifest.json").unlink(),
    "half a manifest": lambda entry: cut(entry / "manifest.json"),
    "no shard": lambda entry: (entry / SHARD).unlink(),
    "half a shard": lambda entry: cut(entry / SHARD),
    "edited records for the eye": lambda entry: cut(entry / "records.jsonl"),
    "an empty folder": lambda entry: [file.unlink() for file in entry.iterdir()],
}


def cut(file: Path) -> None:
    content = file.read_bytes()[:-3]
    file.unlink()
    file.write_bytes(content)
    file.chmod(0o444)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.skipif(os.getuid() != 0, reason="gives files to another user")
def test_what_is_not_whole_and_ours_is_not_taken(
    cache: StageCache, entry: Path, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    HARMS[harm](entry)
    assert not take(cache, tmp_path)
    assert not (tmp_path / "b" / "rollouts").exists()
    assert str(entry) in caplog.text
    again = made(tmp_path / "c")
    cache.publish(again, tmp_path / "c")
    assert again.read(Line) == [Line("one")]
    if not any(word in harm for word in ("symlink", "another's", "write", "pipe")):  # ours, and mended
        assert take(cache, tmp_path)


@pytest.mark.parametrize("harm", ["no manifest", "half a manifest", "no shard", "an empty folder"])
def test_a_half_entry_is_made_again_by_a_run_that_did_not_look(
    cache: StageCache, entry: Path, tmp_path: Path, harm: str
) -> None:
    HARMS[harm](entry)
    cache.publish(RunFolder(tmp_path / "a").stage("rollouts"), tmp_path / "a")
    assert take(cache, tmp_path)


def test_what_a_person_edits_in_a_run_reaches_no_other(
    cache: StageCache, entry: Path, tmp_path: Path
) -> None:
    for name in ("manifest.json", "records.jsonl"):
        with (tmp_path / "a" / "rollouts" / name).open("a") as file:
            file.write("edited")
    assert take(cache, tmp_path)
    assert take(cache, tmp_path)
    with (tmp_path / "b" / "rollouts" / "records.jsonl").open("a") as file:
        file.write("edited")
    assert "edited" not in (entry / "records.jsonl").read_text()


def test_the_cache_is_read_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        cache = StageCache(tmp_path / "cache")
        cache.publish(made(tmp_path / "a"), tmp_path / "a")
    finally:
        os.umask(before)
    folder = cache.entries()[0].path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    assert take(cache, tmp_path)


def test_leftovers_of_killed_publishing_are_swept_and_nothing_else(cache: StageCache, tmp_path: Path) -> None:
    stage = tmp_path / "cache" / "rollouts"
    old, young, foreign = (
        stage / name for name in (f".{'a' * 16}.9.tmp", f".{'b' * 16}.9.tmp", ".notes.tmp")
    )
    for folder in (old, young, foreign):
        folder.mkdir()
        (folder / "part").write_text("x")
    for folder in (old, foreign):
        os.utime(folder, (time.time() - LEFTOVER_SECONDS - 9,) * 2)
    cache.publish(made(tmp_path / "c", "two", INPUTS | {"version": 2}), tmp_path / "c")
    assert [folder.exists() for folder in (old, young, foreign)] == [False, True, True]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def foreign_folders(root: Path) -> None:
    """Folders that hold a manifest.json, and are no entries of ours."""
    for name in (
        "project",  # somebody's own
        "notes/0123456789abcdef",  # in no stage's folder
        "rollouts/notes",  # no fingerprint
        "rollouts/0123456789ABCDEF",
        "rollouts/0123456789abcdef",  # a manifest that says nothing of it
        "rollouts/0123456789abcdef0",
        "training/0123456789abcdef",
        "evaluation/0123456789abcdef",
    ):
        (root / name).mkdir(parents=True)
        (root / name / "manifest.json").write_text('{"name": "a web page"}')


def test_free_removes_entries_of_ours_alone(
    cache: StageCache, entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cache"
    foreign_folders(root)
    copied = root / "neurons" / entry.name  # a stage's folder where another's belongs
    shutil.copytree(entry, copied)
    shutil.rmtree(tmp_path / "a")  # no run refers to the entry now
    monkeypatch.setenv("NEURON_OPSD_STAGES", str(root))
    before = snapshot(root)
    outcome = CliRunner().invoke(app, ["free", "--yes"])
    assert outcome.exit_code == 0, outcome.output
    gone = before.keys() - snapshot(root).keys()
    assert gone == {f"rollouts/{entry.name}/{name}" for name in ("manifest.json", "records.jsonl", SHARD)}


@pytest.mark.parametrize("root", ["", "a"])
def test_free_refuses_a_folder_with_runs_in_it(cache: StageCache, tmp_path: Path, root: str) -> None:
    """`--cache runs` beside `--output runs/demo`, or the run itself."""
    place = tmp_path / root
    before = snapshot(place)
    wrong = StageCache(place)
    with pytest.raises(RunFolderError, match="holds runs"):
        wrong.free(wrong.unused())
    assert snapshot(place) == before


def test_free_of_a_finished_run_removes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made(run)
    (run / "config.yaml").unlink()  # a copy without its settings
    wrong = StageCache(run)
    before = snapshot(run)
    wrong.free(wrong.unused())
    assert snapshot(run) == before
