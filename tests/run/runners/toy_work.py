"""Work without a model, for what runners do with workers that fail, die or are left alone."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_opsd.errors import DataError
from neuron_opsd.progress import tell
from neuron_opsd.run.runners import OnProgress


@dataclass(frozen=True)
class ToyWork:
    """A shard is a file that names its index and its maker; the shards named fail in their own way."""

    folder: Path
    fails: int = -1
    dies: int = -1
    sleeps: float = 0.0
    name: str = "toy"
    num_threads: int | None = 1
    device: str = "cpu"

    def use_threads(self, num_threads: int) -> None:
        (self.folder / f"threads-{num_threads}").touch()

    def write_shard(self, index: int, on_progress: OnProgress) -> dict[str, Any]:
        (self.folder / f"begun-{os.getpid()}").touch()
        if index == self.fails:
            raise DataError("line 3 is no question")
        if index == self.dies and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.sleeps)
        tell(tokens=10 * index)
        on_progress(2, 10 * index)
        return {"index": index, "pid": os.getpid()}
