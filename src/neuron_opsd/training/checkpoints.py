"""What a checkpoint holds beside the Trainer's files, which checkpoints are whole, and which ones are kept."""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neuron_opsd.config import TrainingSettings
from neuron_opsd.model.teacher_weights import TeacherWeights

if TYPE_CHECKING:
    from neuron_opsd.training.opsd_trainer import OpsdTrainer

logger = logging.getLogger(__name__)

TEACHER_FILE = "teacher_weights.safetensors"
STATE_FILE = "opsd_state.json"
COMPLETE_FILE = "complete"


class TeacherCallback(TrainerCallback):
    """Moves the teacher after each step, and makes a checkpoint whole: its last file says so."""

    def __init__(self, teacher: TeacherWeights) -> None:
        self.teacher = teacher
        self.trainer: OpsdTrainer | None = None  # set once there is one

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the optimiser's step: the average takes the new weights in."""
        self.teacher.update()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the Trainer's own files: the teacher's weights, held completions and open figures, then the mark."""
        held = self.trainer.held_state() if self.trainer else {}  # every process takes part
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            save_file(self.teacher.state_dict(), folder / TEACHER_FILE)
            (folder / STATE_FILE).write_text(json.dumps(held), encoding="utf-8")
            (folder / COMPLETE_FILE).write_text(f"{state.global_step}\n", encoding="utf-8")

    def restore(self, checkpoint: Path) -> None:
        """Take the teacher's weights from a checkpoint."""
        self.teacher.load_state_dict(load_file(checkpoint / TEACHER_FILE))


def read_held_state(checkpoint: Path) -> dict[str, Any]:
    """What `OpsdTrainer.held_state` gave."""
    return json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))


def step_of(checkpoint: Path | None) -> int:
    """The optimiser steps behind a checkpoint; 0 where there is none."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


def last_complete_checkpoint(folder: Path, *, up_to_step: float = math.inf) -> Path | None:
    """The newest checkpoint, up to a step, that was written whole; those a crash cut short are removed."""
    complete: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE_FILE).is_file():
            complete.append((step_of(path), path))
        else:
            logger.warning("%s was cut short and is removed", path)
            shutil.rmtree(path)
    return max((pair for pair in complete if pair[0] <= up_to_step), default=(0, None))[1]


def num_kept_checkpoints(settings: TrainingSettings) -> int:
    """At least two, and enough that one from before the guard rails' window is still there."""
    rows_ago = settings.guard_rails.window_steps if settings.guard_rails.enabled else 0
    steps_ago = rows_ago * int(settings.trainer.get("logging_steps", 1) or 1)
    return max(2, math.ceil(steps_ago / settings.save_steps) + 1)
