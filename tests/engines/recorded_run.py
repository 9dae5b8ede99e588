"""`recorded_run.py FILE ARGUMENTS`: the command line, and into FILE what was sampled from the student in training.

One line of JSON for each time that the engine was asked: rows of (prompt ids, completion ids, log-probabilities).
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from neuron_opsd import cli
from neuron_opsd.engines.base import Engine
from neuron_opsd.run import models


class Recorded:
    """An engine that notes what it gave; from some hand-over on, one that believes it has several GPUs."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self.engine, self.file, self.num_refreshed = engine, file, 0

    def __getattr__(self, name: str):
        return getattr(self.engine, name)

    def refresh(self) -> None:
        self.num_refreshed += 1
        if str(self.num_refreshed) == os.environ.get("AS_IF_SEVERAL_GPUS_FROM"):
            self.engine.settings = self.engine.settings.model_copy(update={"tensor_parallel": 2})
        self.engine.refresh()

    def generate(self, requests, sampling) -> Iterator:
        done = list(self.engine.generate(requests, sampling))
        rows = [[requests[i].prompt_ids, c.token_ids, c.log_probs] for i, group in done for c in group]
        with self.file.open("a") as file:
            file.write(json.dumps(rows) + "\n")
        yield from done


def main() -> None:
    file, plain = Path(sys.argv.pop(1)), models.other_engine

    def recorded(*args, student=None, **kwargs):
        engine = plain(*args, student=student, **kwargs)
        return engine if student is None else Recorded(engine, file)

    models.other_engine = recorded
    cli.main()


if __name__ == "__main__":
    main()
