"""Facts of a run in experiment trackers: each once, whatever was interrupted, and no record differs."""

import importlib.util
import json
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from end_to_end.conftest import tiny_model_folder, whole_run  # noqa: F401
from end_to_end.fork_run import WholeRun, differences
from neuron_opsd.cli import app
from neuron_opsd.run.trackers import TRACKERS
from neuron_opsd.run.tracking import Tracking
from neuron_opsd.store.run_folder import RESULTS, RunFolder
from neuron_opsd.store.stage_folder import fingerprint_of

STEPS = list(range(1, 7))  # of the whole run


@pytest.fixture
def folder(whole_run: WholeRun, tmp_path: Path) -> Path:  # noqa: F811
    return shutil.copytree(whole_run.folder, tmp_path / "run")


def send(folder: Path, name: str) -> None:
    pytest.importorskip(TRACKERS[name].package, reason=f"not installed: pip install {name}")
    tracking = Tracking(name, RunFolder.open(folder))
    tracking.close()
    assert json.loads((folder / "tracking" / f"{name}.json").read_text())["facts"]


def in_tensorboard(folder: Path) -> list[tuple[str, int]]:
    """Every scalar and text with its step, of all runs there are."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for place in (folder / "tracking/tensorboard").iterdir():
        events = EventAccumulator(str(place)).Reload()
        found += [(key, event.step) for key in events.Tags()["scalars"] for event in events.Scalars(key)]
        found += [(key, event.step) for key in events.Tags()["tensors"] for event in events.Tensors(key)]
    return found


def in_trackio(folder: Path) -> list[tuple[str, int]]:
    with sqlite3.connect(folder / "tracking/trackio/neuron-opsd.db") as base:
        rows = base.execute("select step, metrics from metrics").fetchall()
    return [(key, step) for step, metrics in rows for key in json.loads(metrics)]


def in_mlflow(folder: Path) -> list[tuple[str, int]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'tracking/mlflow/mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("neuron-opsd").experiment_id])
    found = [
        (m.key, m.step) for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)
    ]
    return found + [(key, 0) for key in run.data.tags]


@pytest.mark.parametrize(
    ("name", "read"), [("tensorboard", in_tensorboard), ("trackio", in_trackio), ("mlflow", in_mlflow)]
)
def test_every_fact_is_sent_once(folder: Path, name: str, read, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed in its training, and goes on."""
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    metrics, results = folder / "training/metrics.jsonl", folder / RESULTS
    later = {file: file.read_bytes() for file in (metrics, results, folder / "training/manifest.json")}
    metrics.write_bytes(b"".join(later[metrics].splitlines(keepends=True)[:4]))
    results.unlink()
    (folder / "training/manifest.json").unlink()
    send(folder, name)
    sent = dict(Counter(read(folder)))
    assert set(sent.values()) == {1}
    assert [step for key, step in sent if key.startswith("training/loss")] == STEPS[:4]
    assert not [key for key, _ in sent if "verdicts" in key]

    for file, content in later.items():
        file.write_bytes(content)
    send(folder, name)
    send(folder, name)
    sent = dict(Counter(read(folder)))
    assert set(sent.values()) == {1}
    assert [step for key, step in sent if key == "training/loss"] == STEPS
    names = {key for key, _ in sent}
    assert {"selection/num_selected", "training/published/kept_fraction", "rollouts/parse_rate"} <= names
    assert {"evaluation/sums/vote_share/base", "evaluation/other/vote_share/trained"} <= names
    assert [key for key in names if "verdicts" in key]
    assert [key for key in names if "preflight_verdict" in key]


def test_wandb_writes_below_the_run_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    send(folder, "wandb")
    (written,) = (folder / "tracking/wandb").rglob("run-*.wandb")
    assert b"selection/num_selected" in written.read_bytes()


def test_other_settings_are_another_run_of_the_tracker(folder: Path) -> None:
    send(folder, "tensorboard")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("num_bootstrap: 50", "num_bootstrap: 60"))
    send(folder, "tensorboard")
    assert len(list((folder / "tracking/tensorboard").iterdir())) == 2


def test_training_is_sent_as_it_goes_and_no_byte_of_the_run_differs(
    whole_run: WholeRun,  # noqa: F811
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(folder / "training")
    seen: list[int] = []
    monkeypatch.setattr(
        Tracking, "catch_up", lambda self, own=Tracking.catch_up: (own(self), seen.append(self.sent["step"]))
    )
    done = CliRunner().invoke(app, [*whole_run.command, "--output", str(folder), "--track", "tensorboard"])
    assert done.exit_code == 0, done.output
    assert set(STEPS) <= set(seen)
    assert all(name.startswith("tracking/") for name in differences(whole_run.folder, folder))


def test_another_training_under_equal_settings_is_another_run_with_all_its_steps(folder: Path) -> None:
    send(folder, "tensorboard")
    file, manifest = folder / "tracking" / "tensorboard.json", folder / "training" / "manifest.json"
    first = json.loads(file.read_text())
    made = json.loads(manifest.read_text()) | {"fingerprint": "of other questions"}
    del made["checksum"]
    manifest.write_text(json.dumps(made | {"checksum": fingerprint_of(made)}))
    send(folder, "tensorboard")
    second = json.loads(file.read_text())
    assert second["id"] != first["id"]
    assert second["step"] == first["step"] == STEPS[-1]
    steps = Counter(step for key, step in in_tensorboard(folder) if key == "training/loss")
    assert steps == dict.fromkeys(STEPS, 2)  # once in each of the two


def test_a_second_run_of_a_process_has_its_own_trackio_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio")
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for run in (folder, other):
        send(run, "trackio")
    assert sorted(in_trackio(folder)) == sorted(in_trackio(other))
    assert set(Counter(in_trackio(other)).values()) == {1}


@pytest.mark.parametrize(
    ("name", "message"),
    [("neptune", "one of wandb, trackio, tensorboard, mlflow"), ("wandb", "Run: pip install wandb")],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    line = ["run", "neuron_opsd", "--model", "none", "--questions", "none.jsonl", "--track", name]
    done = CliRunner().invoke(app, [*line, "--output", str(tmp_path / "run")])
    assert message in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_fails_stops_no_run(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    class Broken:
        package = "json"

        def __init__(self, place: Path, **options: object) -> None:
            raise ConnectionError("no route")

    monkeypatch.setitem(TRACKERS, "broken", Broken)
    Tracking("broken", RunFolder.open(folder)).close()
    assert "broken failed (ConnectionError: no route). The run goes on" in caplog.text


def test_a_tracker_that_fails_as_it_ends_stops_no_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    class Gone(TRACKERS["tensorboard"]):
        def close(self) -> None:
            super().close()
            raise ConnectionError("gone")

    monkeypatch.setitem(TRACKERS, "gone", Gone)
    Tracking("gone", RunFolder.open(folder)).close()
    assert "gone failed (ConnectionError: gone)" in caplog.text
