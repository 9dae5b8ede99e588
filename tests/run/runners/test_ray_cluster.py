"""A Ray cluster of this machine: an actor killed at its shard is replaced, an actor's error is the user's."""

import os
import sys
from pathlib import Path

import pytest

from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.run.runners import RayRunner
from neuron_opsd.run.runners.ray_cluster import _check_room
from run.runners.toy_work import ToyWork


@pytest.mark.slow
def test_a_killed_actor_is_replaced_and_an_error_names_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # actors unpickle the toy work
    seen: list[tuple[int, int]] = []
    work = ToyWork(tmp_path, dies=1, sleeps=0.2)
    entries = list(RayRunner(2).run(work, [0, 1, 2, 3], lambda *counts: seen.append(counts)))
    assert (tmp_path / "died").exists()
    assert sorted(entry["index"] for entry in entries) == [0, 1, 2, 3]
    assert sum(items for items, _ in seen) == 8
    with pytest.raises(DataError, match="toy, shard 1: line 3 is no question"):
        list(RayRunner(2).run(ToyWork(tmp_path, fails=1), [0, 1], lambda *_: None))


def test_more_than_the_cluster_holds_is_refused() -> None:
    _check_room({"CPU": 4.0, "GPU": 2.0}, {"num_cpus": 2, "num_gpus": 1}, 2)
    with pytest.raises(ConfigError, match="--num-processes 3 needs 3 GPUs, and the Ray cluster has 2"):
        _check_room({"CPU": 8.0, "GPU": 2.0}, {"num_cpus": 2, "num_gpus": 1}, 3)
    with pytest.raises(ConfigError, match="--num-processes 3 needs 6 CPUs, and the Ray cluster has 4"):
        _check_room({"CPU": 4.0}, {"num_cpus": 2}, 3)


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'neuron-opsd\[ray\]'"):
        RayRunner(2)
