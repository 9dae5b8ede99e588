"""On-policy distillation on `transformers.Trainer` (method, section 6).

Each optimiser step: the student samples one completion of each question (bare prompt); the same token ids are scored by
the student, and without gradient by the teacher (same network, teacher weights, context + question); the divergence is
summed over completion tokens and divided by their number in the whole step, over all micro-batches and processes.

Sampling happens in `get_batch_samples`, which receives the whole optimiser step, so accumulation is exact: 1 x 8 is
8 x 1. Accelerate, trackers, schedules and resumable checkpoints are the Trainer's own.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.base import Engine, Request, Sampling
from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.model.token_loss import MEASURED, sum_in_chunks, token_loss
from neuron_opsd.model.unembedding import logits_from_hidden, unembedding_weight

logger = logging.getLogger(__name__)

TEACHER_FILE = "teacher_weights.safetensors"
COMPLETE_FILE = "complete"


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """One place of the schedule: both prompts of one question, and its sample once drawn."""

    question_id: str
    student_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]
    seed: int
    completion_ids: tuple[int, ...] = ()
    finish_reason: str = ""


class LazyItems(torch.utils.data.Dataset):
    """The schedule's items, encoded when they are reached."""

    def __init__(self, num_items: int, make_item: Callable[[int], TrainingItem]) -> None:
        self.num_items, self.make_item = num_items, make_item

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> TrainingItem:
        return self.make_item(index)


def _as_list(items: list[Any]) -> Any:
    """A batch is the list of its items; they are padded only after they are sampled."""
    return items


class OpsdTrainer(Trainer):
    """The loss and the sampling; everything else is the Trainer's."""

    def __init__(
        self,
        *,
        model: CausalLM,
        args: TrainingArguments,
        items: LazyItems,
        engine: Engine,
        teacher: TeacherWeights,
        settings: TrainingSettings,
        on_first_batch: Callable[[TrainingItem], None] = lambda item: None,
        on_log: Callable[[dict[str, Any]], None] = lambda row: None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(
            model=model, args=args, train_dataset=items, data_collator=_as_list, callbacks=list(callbacks)
        )
        self.model_accepts_loss_kwargs = True  # the loss is already divided by the step's token count
        self.loss_is_scaled_for_ga = True
        self.engine, self.teacher, self.settings = engine, teacher, settings
        self.unwrapped = model
        self.token_loss = token_loss(settings)
        self.sampling = Sampling(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
        self.on_first_batch, self.on_log = on_first_batch, on_log
        self.step_figures: dict[str, float] = {}

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[TrainingItem]], num_batches: int, device: torch.device
    ) -> tuple[list[list[TrainingItem]], Tensor | None]:
        """Collect one optimiser step, sample its completions, and count its completion tokens."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        items = self._sample([item for batch in batches for item in batch])
        if self.state.global_step == 0:
            self.on_first_batch(items[0])
        # Longest first, so that a micro-batch holds rows of like length and memory peaks at once.
        items.sort(key=lambda item: (-len(item.teacher_ids) - len(item.completion_ids), item.seed))
        size = self.args.per_device_train_batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        counts = [len(items), sum(item.finish_reason == "length" for item in items)]
        num_tokens = sum(len(item.completion_ids) for item in items)
        totals = self.accelerator.reduce(torch.tensor([num_tokens, *counts], device=device), reduction="sum")
        self.step_figures = {
            "num_completion_tokens": int(totals[0]),
            "completion_tokens_mean": float(totals[0] / totals[1]),
            "truncated_fraction": float(totals[2] / totals[1]),
        }
        self.sums = torch.zeros(len(MEASURED), device=device)
        return batches, totals[0]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: list[TrainingItem],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Divergence summed over the micro-batch's completion tokens / completion tokens of the whole step."""
        if num_items_in_batch is None:
            raise ValueError("num_items_in_batch is missing: it comes from get_batch_samples.")
        completions = [item.completion_ids for item in inputs]
        device = self.args.device
        with torch.no_grad(), self.teacher.applied():
            # eval(): the teacher never has dropout
            self.unwrapped.eval()
            teacher_batch = pad_right([item.teacher_ids for item in inputs], completions, device=device)
            teacher_hidden = predicting_states(self.unwrapped, self.unwrapped, *teacher_batch)
            self.unwrapped.train()
        student_batch = pad_right([item.student_ids for item in inputs], completions, device=device)
        student_hidden = predicting_states(model, self.unwrapped, *student_batch)
        head = self.teacher.head_weight(unembedding_weight(self.unwrapped))
        total, sums = sum_in_chunks(
            student_hidden,
            teacher_hidden,
            student_logits=lambda hidden: logits_from_hidden(self.unwrapped, hidden),
            teacher_logits=lambda hidden: logits_from_hidden(self.unwrapped, hidden, weight=head),
            loss=self.token_loss,
            tokens=torch.tensor([token for ids in completions for token in ids], device=device),
            chunk_tokens=self.settings.loss_chunk_tokens,
        )
        self.sums += sums
        # DDP averages gradients over processes; the count is of all of them.
        return total / num_items_in_batch * self.args.world_size

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's figures; hand the row to metrics.jsonl without wall times."""
        if "loss" in logs:
            sums = cast(Tensor, self.accelerator.reduce(self.sums, reduction="sum"))
            sums = sums / self.step_figures["num_completion_tokens"]
            logs |= {**self.step_figures, **dict(zip(MEASURED, sums.tolist(), strict=True))}
            self.on_log({"step": self.state.global_step, **logs})
        super().log(logs, start_time)

    def _sample(self, items: list[TrainingItem]) -> list[TrainingItem]:
        """One completion of each item from the current student."""
        self.unwrapped.eval()
        requests = [Request(prompt_ids=item.student_ids, seeds=(item.seed,)) for item in items]
        sampled = {i: completions[0] for i, completions in self.engine.generate(requests, self.sampling)}
        self.unwrapped.train()
        return [
            replace(item, completion_ids=sampled[i].token_ids, finish_reason=sampled[i].finish_reason)
            for i, item in enumerate(items)
        ]


class TeacherCallback(TrainerCallback):
    """Moves the teacher after each step, and makes a checkpoint whole: its last file says so."""

    def __init__(self, teacher: TeacherWeights) -> None:
        self.teacher = teacher

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the optimiser's step: the average takes the new weights in."""
        self.teacher.update()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the Trainer's own files: the teacher's weights, then the mark."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            save_file(self.teacher.state_dict(), folder / TEACHER_FILE)
            (folder / COMPLETE_FILE).write_text(f"{state.global_step}\n", encoding="utf-8")

    def restore(self, checkpoint: Path) -> None:
        """Take the teacher's weights from a checkpoint."""
        self.teacher.load_state_dict(load_file(checkpoint / TEACHER_FILE))


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole; those a crash cut short are removed."""
    complete: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE_FILE).is_file():
            complete.append((int(path.name.split("-")[1]), path))
        else:
            logger.warning("%s was cut short and is removed", path)
            shutil.rmtree(path)
    return max(complete)[1] if complete else None
