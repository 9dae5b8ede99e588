"""Finished stages shared between runs: what is taken, what is refused, what may be freed."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from neuron_opsd.store.files import file_digest
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.stage_cache import StageCache
from neuron_opsd.store.stage_folder import StageFolder


@dataclasses.dataclass(frozen=True)
class Line:
    text: str


INPUTS = {"temperature": 0.6, "version": 1}


def made(path: Path, text: str = "one", inputs: dict = INPUTS) -> StageFolder:
    """A finished stage `rollouts` in the run at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text("seed: 0\n")
    stage = RunFolder(path).stage("rollouts")
    stage.begin(inputs)
    stage.add_shard([Line(text)], Line)
    stage.finish({"n": 1}, Line)
    return stage


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


def test_another_run_takes_the_same_bytes(tmp_path: Path, cache: StageCache) -> None:
    first = made(tmp_path / "a")
    cache.publish(first, tmp_path / "a")
    second = RunFolder(tmp_path / "b").stage("rollouts")
    assert cache.take(second, INPUTS)
    assert second.is_finished(INPUTS)
    assert second.read(Line) == [Line("one")]
    assert {f.name: file_digest(f) for f in first.path.iterdir()} == {
        f.name: file_digest(f) for f in second.path.iterdir()
    }


def test_other_inputs_are_not_taken(tmp_path: Path, cache: StageCache) -> None:
    cache.publish(made(tmp_path / "a"), tmp_path / "a")
    assert not cache.take(RunFolder(tmp_path / "b").stage("rollouts"), INPUTS | {"temperature": 0.7})


def test_an_unfinished_stage_is_not_shared(tmp_path: Path, cache: StageCache) -> None:
    stage = RunFolder(tmp_path / "a").stage("rollouts")
    stage.begin(INPUTS)
    stage.add_shard([Line("one")], Line)
    cache.publish(stage, tmp_path / "a")
    assert cache.entries() == []


def test_a_damaged_entry_is_refused_and_made_again(tmp_path: Path, cache: StageCache) -> None:
    cache.publish(made(tmp_path / "a"), tmp_path / "a")
    (cache.entries()[0].path / "part-00000.parquet").write_bytes(b"cut")
    assert not cache.take(RunFolder(tmp_path / "b").stage("rollouts"), INPUTS)
    assert not (tmp_path / "b" / "rollouts").exists()
    cache.publish(made(tmp_path / "c"), tmp_path / "c")
    assert cache.take(RunFolder(tmp_path / "b").stage("rollouts"), INPUTS)


def test_remaking_a_stage_in_one_run_leaves_the_other_alone(tmp_path: Path, cache: StageCache) -> None:
    cache.publish(made(tmp_path / "a"), tmp_path / "a")
    taken = RunFolder(tmp_path / "b").stage("rollouts")
    cache.take(taken, INPUTS)
    made(tmp_path / "a", "two", INPUTS | {"temperature": 1.0})
    assert taken.is_finished(INPUTS)
    assert taken.read(Line) == [Line("one")]


def test_a_run_outlives_the_cache(tmp_path: Path, cache: StageCache) -> None:
    cache.publish(made(tmp_path / "a"), tmp_path / "a")
    taken = RunFolder(tmp_path / "b").stage("rollouts")
    cache.take(taken, INPUTS)
    shutil.rmtree(tmp_path / "cache")
    assert taken.is_finished(INPUTS)


def test_only_what_no_run_refers_to_is_unused(tmp_path: Path, cache: StageCache) -> None:
    cache.publish(made(tmp_path / "a"), tmp_path / "a")
    cache.publish(made(tmp_path / "b", "two", INPUTS | {"temperature": 1.0}), tmp_path / "b")
    assert cache.unused() == []
    shutil.rmtree(tmp_path / "b")
    unused = cache.unused()
    assert [(entry.stage, entry.fingerprint) for entry in unused] == [
        ("rollouts", made(tmp_path / "x", "two", INPUTS | {"temperature": 1.0}).fingerprint())
    ]
    cache.free(unused)
    assert len(cache.entries()) == 1


def test_the_trained_model_is_not_shared(tmp_path: Path, cache: StageCache) -> None:
    stage = RunFolder(tmp_path / "a").stage("training")
    stage.begin(INPUTS)
    stage.finish({})
    cache.publish(stage, tmp_path / "a")
    assert cache.entries() == []


def test_off_shares_nothing(tmp_path: Path) -> None:
    cache = StageCache.at("off", default=tmp_path / "cache")
    cache.publish(made(tmp_path / "a"), tmp_path / "a")
    assert not cache.take(RunFolder(tmp_path / "b").stage("rollouts"), INPUTS)
    assert cache.entries() == []
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = StageCache(tmp_path / "file" / "cache")
    stage = made(tmp_path / "a")
    cache.publish(stage, tmp_path / "a")
    assert stage.is_finished(INPUTS)
