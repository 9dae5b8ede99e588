"""Experiment trackers behind one interface.

Each writes below the run folder. Nothing goes over a network unless the tracker's own environment variable says so.
"""

import io
import os
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar, Protocol

PROJECT = "neuron-opsd"


class Tracker(Protocol):
    """Where facts go. One with a step is a point of a curve. One without is a figure of the whole run."""

    package: ClassVar[str]

    def __init__(self, place: Path, *, run_id: str, name: str, settings: Mapping[str, Any]) -> None:
        """Begin the tracker's run, or go on with the one of this id."""
        ...

    def log(self, values: Mapping[str, float], *, step: int | None = None) -> None: ...

    def say(self, name: str, text: str) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files, for `tensorboard --logdir RUN/tracking/tensorboard`."""

    package: ClassVar[str] = "tensorboard"

    def __init__(self, place: Path, *, run_id: str, name: str, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = place / run_id
        is_new = not folder.exists()
        self.writer = SummaryWriter(str(folder))
        if is_new:
            self.say("settings", "\n".join(f"    {key}: {value}" for key, value in flat(settings).items()))

    def log(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step or 0)
        self.writer.flush()

    def say(self, name: str, text: str) -> None:
        self.writer.add_text(name, text.replace("\n", "\n\n"), 0)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases: files for `wandb sync`, or its server with WANDB_MODE=online."""

    package: ClassVar[str] = "wandb"

    def __init__(self, place: Path, *, run_id: str, name: str, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        import wandb  # pyright: ignore[reportMissingImports]

        quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        self.run = wandb.init(
            project=PROJECT,
            id=run_id,
            name=name,
            dir=str(place),
            resume="allow",
            config=dict(settings),
            settings=quiet,
        )
        self.run.define_metric("training/step")
        self.run.define_metric("training/*", step_metric="training/step")

    def log(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        if step is None:
            self.run.summary.update(dict(values))
        else:
            self.run.log({**values, "training/step": step})

    def say(self, name: str, text: str) -> None:
        self.run.summary[name] = text

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """MLflow: a store in the run folder, or the one that MLFLOW_TRACKING_URI names."""

    package: ClassVar[str] = "mlflow"

    def __init__(self, place: Path, *, run_id: str, name: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        self.make_metric = Metric
        self.client = MlflowClient(
            os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place / 'mlflow.db'}"
        )
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT)
        ours = self.client.search_runs([experiment], f"tags.neuron_opsd_id = '{run_id}'")
        if ours:
            self.run_id = ours[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            tags = {"neuron_opsd_id": run_id}
            self.run_id = self.client.create_run(experiment, tags=tags, run_name=name).info.run_id
            for key, value in flat(settings).items():
                self.client.log_param(self.run_id, key, _at_most(value, MAX_PARAM))

    def log(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        now = int(time.time() * 1000)
        metrics = [self.make_metric(key, value, now, step or 0) for key, value in values.items()]
        for start in range(0, len(metrics), MAX_BATCH):
            self.client.log_batch(self.run_id, metrics[start : start + MAX_BATCH])

    def say(self, name: str, text: str) -> None:
        self.client.set_tag(self.run_id, name, _at_most(text, MAX_TAG))

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


class Trackio:
    """Trackio: a data base in the run folder. Show it with `TRACKIO_DIR=RUN/tracking/trackio trackio show`."""

    package: ClassVar[str] = "trackio"

    def __init__(self, place: Path, *, run_id: str, name: str, settings: Mapping[str, Any]) -> None:
        import trackio

        if "TRACKIO_DIR" not in os.environ:
            # Its modules copy the folder when they are imported, which another run of this process may have done.
            for module_name, module in list(sys.modules.items()):
                if module_name.split(".")[0] == "trackio" and hasattr(module, "TRACKIO_DIR"):
                    vars(module)["TRACKIO_DIR"] = place
        self.trackio = trackio
        trackio.init(
            project=PROJECT, name=f"{name}-{run_id}", config=flat(settings), resume="allow", embed=False
        )

    def log(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        self.trackio.log(dict(values), step=step or 0)

    def say(self, name: str, text: str) -> None:
        self.trackio.log({name: text}, step=0)

    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            self.trackio.finish()


MAX_PARAM, MAX_TAG, MAX_BATCH = 6_000, 8_000, 1_000  # MLflow's own limits, of characters and metrics
TRACKERS: dict[str, type[Tracker]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
}


def _at_most(text: str, length: int) -> str:
    """The text, or what a tracker takes of it and a note."""
    note = f"... ({len(text):,} characters: config.yaml and results.json have all)"
    return text if len(text) <= length else text[: length - len(note)] + note


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Every setting by its dotted name, as text."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = str(value)
    return found
