"""Runs of the command line in processes of their own, forked from one that has imported torch: each costs little.

`ForkedRun` starts one and can end it at a moment of its work; `differences` says in what two run folders differ.
"""

import contextlib
import functools
import gc
import importlib.metadata
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

# The stages in order, and what appears in the run folder when each begins.
BEGINS = {
    "questions": ".lock",
    "rollouts": "rollouts",
    "neurons": "neurons",
    "select": "selection",
    "contexts": "contexts",
    "train": "training",
    "evaluate": "evaluation",
    "report": "evaluation/results.json",
}
# More shards and checkpoints than a tiny run needs, so that there is something to lose.
MANY_PARTS = ["rollouts.shard_size=3", "training.num_steps=6", "training.save_steps=2", "num_threads=1"]
# Wall times and versions, what quotes them, and the lock.
NEVER_EQUAL = {"timings.jsonl", "environment.json", ".lock", "report.html", "report.html.sha256"}

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(
    [
        "neuron_opsd.cli",
        "neuron_opsd.pipeline",
        "neuron_opsd.early_checks",
        "transformers.models.llama.modeling_llama",
        "peft.tuners.lora",
    ]
)
# Read when the server starts: it must have one thread, or a fork of it may wait for a thread that it does not have.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class ForkedRun:
    """`neuron-opsd ARGUMENTS` in a process; what it says goes to `log`. `first` is code that it runs before."""

    def __init__(
        self, arguments: list[str], log: Path, *, max_file_bytes: int | None = None, first: str = ""
    ) -> None:
        self.log = log
        # The server's environment is that of the test which started it, with whatever that test had patched.
        given = (arguments, str(log), max_file_bytes, dict(os.environ), first)
        self.process = _forkserver.Process(target=_run_cli, args=given)
        self.process.start()

    def wait(self) -> int:
        """The exit status; negative for the signal that ended it."""
        self.process.join(120)
        assert self.process.exitcode is not None, f"still running after two minutes: {self.log.read_text()}"
        return self.process.exitcode

    def wait_for(self, path: Path) -> bool:
        """Whether a file has appeared while the run lives."""
        while not path.exists():
            if not self.process.is_alive():
                return False
            time.sleep(0.003)
        return True

    def send(self, number: int) -> int:
        """Send a signal, unless the run is over, and return the exit status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)
        return self.wait()


def _run_cli(
    arguments: list[str], log: str, max_file_bytes: int | None, environment: dict[str, str], first: str
) -> None:
    from neuron_opsd import cli

    os.environ.clear()
    os.environ.update(environment)
    exec(first, {})
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it
    torch.set_num_threads(1)
    gc.freeze()  # what the server imported stays
    importlib.metadata.version = functools.cache(importlib.metadata.version)  # as in conftest.py
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    sys.argv = ["neuron-opsd", *arguments]
    cli.main()


@dataclass(frozen=True)
class WholeRun:
    """An uninterrupted run: its command without --output, its folder, and the seconds that each stage took."""

    command: list[str]
    folder: Path
    seconds: dict[str, float]


def make_whole_run(command: list[str], folder: Path) -> WholeRun:
    command = [*command, *MANY_PARTS]
    run, started = ForkedRun([*command, "--output", str(folder)], folder.with_suffix(".log")), []
    for begins in BEGINS.values():
        assert run.wait_for(folder / begins), run.log.read_text()
        started.append(time.monotonic())
    assert run.wait() == 0, run.log.read_text()
    ends = [*started[1:], time.monotonic()]
    return WholeRun(
        command, folder, {stage: end - start for stage, start, end in zip(BEGINS, started, ends, strict=True)}
    )


def shards_of(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every shard that a manifest lists, with what a rewrite would change: its inode and time of change."""
    files = [
        manifest.parent / shard["file"]
        for manifest in folder.rglob("manifest.json")
        for shard in json.loads(manifest.read_text())["shards"]
    ]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def differences(first: Path, second: Path) -> list[str]:
    """Files that two runs do not have alike: all by their bytes, which covers records and tensors; and checkpoints."""
    a, b = (artefacts(folder) | checkpoint_tensors(folder) for folder in (first, second))
    return sorted(name for name in a | b if a.get(name) != b.get(name))


def artefacts(folder: Path, *, without: set[str] = NEVER_EQUAL) -> dict[str, bytes]:
    """Every file by its bytes, but for checkpoints (they hold absolute paths)."""
    files = [path for path in folder.rglob("*") if path.is_file() and "checkpoint-" not in str(path)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in without}


def checkpoint_tensors(folder: Path) -> dict[str, bytes]:
    """The trained and the teacher's weights and the optimiser's state of every checkpoint."""
    tensors: dict[str, torch.Tensor] = {}
    for checkpoint in folder.glob("training/checkpoint-*"):
        for file in checkpoint.glob("*.safetensors"):
            tensors |= {f"{checkpoint.name}/{file.name}/{name}": t for name, t in load_file(file).items()}
        state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
        tensors |= {f"{checkpoint.name}/{i}/{k}": t for i, values in state.items() for k, t in values.items()}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
