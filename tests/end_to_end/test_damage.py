"""A file of a finished run is cut short or altered: the next run names it, remakes it, and ends with the same bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from end_to_end.fork_run import ForkedRun, WholeRun, differences

SHARDS = [
    "questions",
    "rollouts",
    "neurons",
    "selection",
    "contexts",
    "evaluation/base",
    "evaluation/trained",
]
FILES = [
    *(f"{stage}/part-00000.parquet" for stage in SHARDS),
    "rollouts/part-00002.parquet",
    "training/metrics.jsonl",
    "model/model.safetensors",
    "model/config.json",
]
MANIFESTS = ["rollouts/manifest.json", "training/manifest.json"]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("together", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_damaged_file_is_named_and_remade(whole_run: WholeRun, tmp_path: Path, together: bool) -> None:
    """All at once, or one after another; a damaged manifest hides its shards, so it comes alone."""
    folder, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(whole_run.folder, folder)
    arguments = [*whole_run.command, "--output", str(folder)]
    for names in [FILES] if together else [[name] for name in FILES + MANIFESTS]:
        for number, name in enumerate(names):
            harm: Callable[[Path], None] = (cut, flip, Path.unlink)[(number + len(name)) % 3]
            harm(folder / name)
        assert ForkedRun(arguments, log).wait() == 0, log.read_text()
        said = "".join(log.read_text().split())  # the log wraps its lines
        assert [
            name for name in names if f"{name}ismissingorcorrupted" not in said and name not in MANIFESTS
        ] == []
        assert all(name in said for name in names if "manifest" in name)
        assert differences(whole_run.folder, folder) == [], names


@pytest.mark.parametrize("is_written", [False, True], ids=["missing", "without its checksum"])
def test_a_model_whose_card_a_kill_left_undone_gets_it_with_train(
    whole_run: WholeRun, tmp_path: Path, is_written: bool
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(whole_run.folder, folder)
    card, sums = folder / "model" / "README.md", folder / "SHA256SUMS"
    if is_written:
        sums.write_text("".join(line for line in sums.open() if "README.md" not in line))
    else:
        card.unlink()
    assert ForkedRun(["train", str(folder)], log).wait() == 0, log.read_text()
    assert differences(whole_run.folder, folder) == []
