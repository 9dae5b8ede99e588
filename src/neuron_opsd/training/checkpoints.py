"""Checkpoints: what they hold beside the Trainer's files, which are whole, and which are kept.

    training/checkpoint-N/      the Trainer's files, the teacher's weights, the held state, metrics.jsonl up to step N
        checksums.json          sha256 of every file, written last

The Trainer writes into a staging folder. What is whole and on the disk is renamed into place. A checkpoint whose files
are not those of its checksums is named in the log, removed, and the one before is used.
"""

import contextlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from neuron_opsd import processes
from neuron_opsd.config import TrainingSettings
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.store.files import dump_json, explain_disk_errors, file_digest, sync_tree
from neuron_opsd.training.whole_copy import WholeCopy

logger = logging.getLogger(__name__)

TEACHER_FILE = "teacher_weights.safetensors"
STATE_FILE = "opsd_state.json"
CHECKSUMS_FILE = "checksums.json"
# In torch.save's words, and in those of the C++ streams below it.
TORCH_CANNOT_WRITE = "PytorchStreamWriter|inline_container|Parent directory|iostream error"
STAGING = ".checkpoints.partial"  # a name that the run folder clears of what a killed process left


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Explain a full disk also where torch, safetensors and tokenizers raise errors of their own for it."""
    with explain_disk_errors(folder):
        try:
            yield
        except Exception as error:
            # tokenizers raises a plain Exception, torch a RuntimeError as it does for so much else (a process of
            # `accelerate launch` that is gone, say). An error of any other kind is none of ours to explain
            is_torchs = isinstance(error, RuntimeError) and re.search(TORCH_CANNOT_WRITE, str(error))
            if not is_torchs and not isinstance(error, SafetensorError) and type(error) is not Exception:
                raise
            raise OSError(" ".join(str(error).split())) from error


class TeacherCallback(TrainerCallback):
    """Moves the teacher after each step."""

    def __init__(self, teacher: TeacherWeights, copied: WholeCopy | None = None) -> None:
        self.teacher, self.copied = teacher, copied

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the optimiser's step: the average takes the new weights in."""
        if self.copied:
            self.copied.follow()
        self.teacher.update()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the checkpoint's weights were read: the whole copy has them too."""
        if self.copied:
            self.copied.follow()

    def restore(self, checkpoint: Path) -> None:
        """Take the teacher's weights from a checkpoint, and make the rest readable for these processes."""
        self.teacher.load_state_dict(load_file(checkpoint / TEACHER_FILE))
        if self.copied is None and processes.is_main():
            _unshard_files(checkpoint)
        processes.wait_for_all()


def _unshard_files(checkpoint: Path) -> None:
    """Give an FSDP checkpoint the files of a plain one: weights lie there whole already, the optimiser by name."""
    sharded = checkpoint / "optimizer.bin"
    if not sharded.is_file():
        return
    logger.info(
        "training: %s was written by FSDP. Its optimiser is rewritten for unsharded weights", checkpoint
    )
    state = torch.load(sharded, map_location="cpu", weights_only=True)
    names = [name for group in state["param_groups"] for name in group["params"]]
    place = {name: i for i, name in enumerate(names)}
    plain = {
        "state": {place[name]: values for name, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [place[name] for name in group["params"]]} for group in state["param_groups"]
        ],
    }
    temporary = checkpoint / ".optimizer.tmp"
    torch.save(plain, temporary)
    temporary.rename(checkpoint / "optimizer.pt")
    sharded.unlink()
    (checkpoint / "pytorch_model_fsdp.bin").unlink(missing_ok=True)


def write_own_state(staged: Path, teacher: TeacherWeights, held: dict[str, Any]) -> None:
    """Add the teacher's weights, held completions and open figures to what the Trainer has written."""
    save_file(teacher.state_dict(), staged / TEACHER_FILE)
    (staged / STATE_FILE).write_text(json.dumps(held), encoding="utf-8")


def read_held_state(checkpoint: Path) -> dict[str, Any]:
    """What `OpsdTrainer.held_state` gave."""
    return json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))


def step_of(checkpoint: Path | None) -> int:
    """The optimiser steps behind a checkpoint, 0 where there is none."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


def publish_checkpoint(staged: Path, folder: Path, *, limit: int | None) -> None:
    """Seal a staged checkpoint, rename it into `folder`, and remove all but the newest `limit`."""
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    digests = {str(path.relative_to(staged)): file_digest(path) for path in files}
    (staged / CHECKSUMS_FILE).write_text(dump_json(digests), encoding="utf-8")
    sync_tree(staged)
    target = folder / staged.name
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staged, target)
    sync_tree(folder, deep=False)
    for path in _by_step(folder)[: -limit if limit else 0]:
        _remove(path)


def last_complete_checkpoint(folder: Path, *, up_to_step: float = math.inf) -> Path | None:
    """The newest checkpoint, up to a step, that is whole. Damaged ones that are newer are named and removed."""
    for path in reversed([path for path in _by_step(folder) if step_of(path) <= up_to_step]):
        if not (problem := _problem_of(path)):
            return path
        logger.warning(
            "training: %s is damaged (%s). It is removed, and the one before is used", path, problem
        )
        _remove(path)
    return None


def _problem_of(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in words. Empty if nothing is."""
    try:
        digests = json.loads((checkpoint / CHECKSUMS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return f"{CHECKSUMS_FILE} is missing or unreadable"
    if not isinstance(digests, dict) or TRAINER_STATE_NAME not in digests:
        return f"{CHECKSUMS_FILE} is not a list of files"
    for name, digest in digests.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if file_digest(checkpoint / name) != digest:
            return f"{name} is corrupted (checksum mismatch)"
    return ""


def _by_step(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()), key=step_of)


def _remove(checkpoint: Path) -> None:
    """Rename first: a checkpoint that a kill left half-removed would look damaged."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.partial")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed)


def num_kept_checkpoints(settings: TrainingSettings) -> int:
    """At least two, and enough that one from before the guard rails' window is still there."""
    rows_ago = settings.guard_rails.window_steps if settings.guard_rails.enabled else 0
    steps_ago = rows_ago * int(settings.trainer.get("logging_steps", 1) or 1)
    return max(2, math.ceil(steps_ago / settings.save_steps) + 1)
