"""The figures of training: one row a step, gathered over processes, and their mean over a logging interval."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Summed over a logging interval; every other figure is a mean over its steps.
COUNTS = ("num_completion_tokens", "num_loss_tokens")


def interval_row(steps: list[dict[str, float]]) -> dict[str, float]:
    """One row for the steps of an interval: counts summed, everything else its mean."""
    row: dict[str, float] = {}
    for name in dict.fromkeys(name for step in steps for name in step):
        values = [step[name] for step in steps if name in step]
        row[name] = sum(values) if name in COUNTS else sum(values) / len(values)
    return row


class MetricsFile:
    """metrics.jsonl; rows after the checkpoint that training resumes from are written again.

    Every process holds the rows; one writes them.
    """

    def __init__(self, path: Path, *, keep_steps: int, is_writer: bool = True) -> None:
        self.path, self.is_writer = path, is_writer
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        self.rows: list[dict[str, Any]] = []
        kept = []
        for line in lines:
            if line.endswith("\n") and (row := json.loads(line))["step"] <= keep_steps:
                self.rows.append(row)
                kept.append(line)
        if is_writer:
            path.write_text("".join(kept), encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self.rows.append(dict(row))
        if self.is_writer:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, sort_keys=True) + "\n")
