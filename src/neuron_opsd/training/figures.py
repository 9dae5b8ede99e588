"""The figures of training: one row a step, gathered over processes, and their mean over a logging interval."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_opsd.store.files import explain_disk_errors, open_to_append, write_atomically

# Summed over a logging interval. Every other figure is a mean over its steps.
COUNTS = ("num_completion_tokens", "num_loss_tokens")


def interval_row(steps: list[dict[str, float]]) -> dict[str, float]:
    """One row for the steps of an interval: counts summed, everything else its mean."""
    row: dict[str, float] = {}
    for name in dict.fromkeys(name for step in steps for name in step):
        values = [step[name] for step in steps if name in step]
        row[name] = sum(values) if name in COUNTS else sum(values) / len(values)
    return row


def _words(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is no finite number as the word for it ("nan", "inf", "-inf"): JSON has no such numbers."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row that `_words` was given."""
    return {name: float(value) if isinstance(value, str) else value for name, value in row.items()}


class MetricsFile:
    """metrics.jsonl. Resuming goes on from the rows that the checkpoint holds, whatever became of the file.

    Every process holds the rows. One writes them.
    """

    def __init__(self, path: Path, *, checkpoint: Path | None, is_writer: bool = True) -> None:
        self.path, self.is_writer = path, is_writer
        kept = (checkpoint / path.name).read_bytes() if checkpoint else b""
        self.rows: list[dict[str, Any]] = [_numbers(json.loads(line)) for line in kept.splitlines()]
        if is_writer:
            with explain_disk_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, lambda temporary: temporary.write_bytes(kept))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self.rows.append(dict(row))
        if self.is_writer:
            with explain_disk_errors(self.path), open_to_append(self.path) as file:
                file.write(json.dumps(_words(row), sort_keys=True, allow_nan=False) + "\n")

    def copy_into(self, checkpoint: Path) -> None:
        """Keep the rows so far with a checkpoint."""
        shutil.copyfile(self.path, checkpoint / self.path.name)
