"""Folders of somebody else's, and links planted in ours: nothing outside is written, cut short or removed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from neuron_opsd.config import load_config
from neuron_opsd.errors import RunFolderError
from neuron_opsd.store.files import write_text
from neuron_opsd.store.own_folder import MARK, claim
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.training.figures import MetricsFile

CONFIG = load_config("neuron_opsd", values={"model.name": "any", "questions.path": "any"})
SETTINGS = yaml.safe_dump(CONFIG.model_dump(mode="json"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FOREIGN: dict[str, dict[str, str]] = {
    "a web project": {"config.yaml": "site: blog\n", "questions/faq.md": "?", ".draft.tmp": "half"},
    "settings that would do": {"config.yaml": SETTINGS, "rollouts/data.csv": "1,2"},
    "an empty config": {"config.yaml": ""},
    "a thesis": {"thesis.tex": "years of work"},
    "another's mark": {MARK: '{"made_by": "somebody"}', "config.yaml": SETTINGS},
    "a mark that is no JSON": {MARK: "\x00", "config.yaml": SETTINGS},
    "a comparison's": {MARK: '{"kind": "comparison", "made_by": "neuron-opsd"}', "comparison.json": "{}"},
    "hidden work": {".config.yaml.swp": "unsaved"},
    "a lock and work": {".lock": "", "notes.txt": "x"},
    "half a file of another": {f".{MARK}.x.tmp": "x"},
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("take", [RunFolder.create, RunFolder.open])
def test_a_foreign_folder_is_refused_and_left_alone(
    tmp_path: Path, name: str, take: Callable[[Path], RunFolder]
) -> None:
    for file, text in FOREIGN[name].items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        take(tmp_path)
    assert contents(tmp_path) == before


def test_settings_without_the_mark_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SETTINGS)
    with pytest.raises(RunFolderError, match=f"it has no {MARK}"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    "left", [(), (".DS_Store",), (".lock",), (f".{MARK}.1.tmp",), (".lock", f".{MARK}.99.tmp")]
)
def test_what_a_killed_start_leaves_is_taken(tmp_path: Path, left: tuple[str, ...]) -> None:
    for name in left:
        (tmp_path / name).write_text("{")
    run = RunFolder.create(tmp_path)
    with run.locked():
        run.write_config(CONFIG)
    assert sorted(contents(tmp_path).keys() - {".DS_Store"}) == [".lock", "config.yaml", MARK]
    assert RunFolder.open(tmp_path).config() == CONFIG


def test_only_leftovers_of_ours_are_swept(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    ours = (".config.yaml.7.tmp", "rollouts/.part-00001.parquet.9.tmp", "evaluation/base/.manifest.json.1.tmp",
            "training/.checkpoints.partial/checkpoint-2/x", "training/checkpoint-2/.optimizer.tmp",
            ".model.tmp/config.json", ".rollouts.partial/manifest.json")  # fmt: skip
    theirs = (".draft.tmp", "notes/.draft.7.tmp", ".movie.partial", "rollouts/.cache.tmp",
              "backup/rollouts/.part-00001.parquet.9.tmp", "notes.tmp", "config.yaml.7.tmp")  # fmt: skip
    for name in (*ours, *theirs):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".a.1.tmp").write_text("x")
    (run.path / "neurons").symlink_to(outside)
    (run.path / ".evaluation.partial").symlink_to(outside)
    with run.locked():
        pass
    assert not [name for name in ours if (run.path / name).exists()]
    assert not [name for name in theirs if not (run.path / name).exists()]
    assert contents(outside) == {".a.1.tmp": b"x"}


def link(target: Path, path: Path) -> None:
    path.symlink_to(target)


def second_name(target: Path, path: Path) -> None:
    os.link(target, path)


def pipe(target: Path, path: Path) -> None:
    os.mkfifo(path)


WRITERS: dict[str, Callable[[RunFolder], object]] = {
    ".lock": lambda run: run.locked().__enter__(),
    "timings.jsonl": lambda run: run.add_timing({"stage": "x"}),
    "metrics.jsonl": lambda run: MetricsFile.append(_metrics(run), {"loss": 1.0}),
}


def _metrics(run: RunFolder) -> MetricsFile:
    file = MetricsFile.__new__(MetricsFile)
    file.path, file.is_writer, file.rows = run.path / "metrics.jsonl", True, []
    return file


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("plant", [link, second_name, pipe])
def test_a_planted_file_is_not_written_through(
    tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    run, victim = RunFolder.create(tmp_path / "run"), tmp_path / "victim"
    victim.write_text("precious")
    plant(victim, run.path / name)
    with pytest.raises(RunFolderError, match=name):
        WRITERS[name](run)
    assert run.holder() is None
    assert victim.read_text() == "precious"


def test_a_planted_temporary_file_is_not_written_through(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "report.md"
    victim.write_text("precious")
    (tmp_path / f".report.md.{os.getpid()}.tmp").symlink_to(victim)
    write_text(file, "ours")
    assert (victim.read_text(), file.read_text()) == ("precious", "ours")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "out")
    with pytest.raises(OSError, match="not a regular file"):
        write_text(tmp_path / "out", "text")
    assert not (tmp_path / "out").is_file()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(RunFolderError, match="is a file"):
        claim(tmp_path / "a", "comparison")
