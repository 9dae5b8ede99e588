"""Stage: teacher contexts -> a trained model. Sets the trainer up, resumes it, and publishes the result."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.base import Engine
from neuron_opsd.errors import ConfigError, ModelError
from neuron_opsd.model.load import CausalLM, end_token_ids
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.training.opsd_trainer import (
    LazyItems,
    OpsdTrainer,
    TeacherCallback,
    TrainingItem,
    last_complete_checkpoint,
)

logger = logging.getLogger(__name__)

# Settings of TrainingArguments that our own sections decide; setting them twice would be a contradiction.
OWNED = {
    "output_dir": "--output",
    "max_steps": "training.num_steps",
    "num_train_epochs": "training.max_epochs",
    "per_device_train_batch_size": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "warmup_steps": "training.warmup_steps",
    "max_grad_norm": "training.max_grad_norm",
    "seed": "seed",
    "save_steps": "training.save_steps",
}


def train(
    model: CausalLM,
    make_engine: Callable[[CausalLM], Engine],
    items: LazyItems,
    settings: TrainingSettings,
    *,
    folder: Path,
    num_steps: int,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
    on_first_batch: Callable[[TrainingItem], None] = lambda item: None,
) -> CausalLM:
    """Distil, resuming from the last complete checkpoint in `folder`.

    Args:
        model: The frozen model; it is changed in place (or wrapped by an adapter).
        make_engine: Builds the engine that samples from the student.
        items: `num_steps * settings.batch_size` places of the schedule.
        settings: `training.*`.
        folder: Where checkpoints and metrics.jsonl go.
        num_steps: Optimiser steps in all.
        seed: The run's seed.
        callbacks: Further Trainer callbacks, such as progress.
        on_first_batch: Called with the first item once sampled, for the log.

    Returns:
        The student, adapter merged.
    """
    set_seed(seed)
    student = trainable(model, settings, seed=seed)
    teacher = TeacherWeights(student, kind=settings.teacher, ema_rate=settings.ema_rate)
    keeper = TeacherCallback(teacher)
    checkpoint = last_complete_checkpoint(folder)
    metrics = MetricsFile(folder / "metrics.jsonl", keep_steps=_step_of(checkpoint))
    if checkpoint is not None:
        logger.info("train: resumes at step %d of %d", _step_of(checkpoint), num_steps)
        keeper.restore(checkpoint)
    trainer = OpsdTrainer(
        model=student,
        args=training_arguments(settings, folder=folder, num_steps=num_steps, seed=seed, device=model.device),
        items=items,
        engine=make_engine(student),
        teacher=teacher,
        settings=settings,
        on_first_batch=on_first_batch,
        on_log=metrics.append,
        callbacks=[keeper, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # figures go to metrics.jsonl, not to standard output
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return student


def trainable(model: CausalLM, settings: TrainingSettings, *, seed: int) -> CausalLM:
    """The model with what is to be trained: an adapter on all linear layers, or all weights.

    Raises:
        ModelError: full training of weights that are not float32.
    """
    if settings.method == "full":
        if model.dtype != torch.float32:
            raise ModelError(
                f"training.method is full, but model.dtype is {str(model.dtype).removeprefix('torch.')}: small steps "
                "round to nothing there. Set model.dtype=float32 and training.trainer={bf16: true}."
            )
        return model.requires_grad_(True)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)  # pyright: ignore[reportReturnType]


def training_arguments(
    settings: TrainingSettings, *, folder: Path, num_steps: int, seed: int, device: torch.device
) -> TrainingArguments:
    """TrainingArguments from our section and the pass-through `training.trainer`.

    Raises:
        ConfigError: a pass-through setting that is unknown, wrong, or decided by another section.
    """
    for name, ours in OWNED.items():
        if name in settings.trainer:
            raise ConfigError(f"training.trainer.{name} is decided by {ours}. Set that instead.")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    per_step, rest = divmod(settings.batch_size, settings.micro_batch_size * world_size)
    if rest or not per_step:
        raise ConfigError(
            f"training.batch_size is {settings.batch_size}; it must be a multiple of training.micro_batch_size "
            f"({settings.micro_batch_size}) times the number of processes ({world_size})."
        )
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": num_steps,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": per_step,
        "learning_rate": settings.resolved_learning_rate(),
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": min(settings.warmup_steps, num_steps // 2),
        "weight_decay": 0.0,
        "max_grad_norm": settings.max_grad_norm,
        "seed": seed,
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
        "use_cpu": device.type == "cpu",
        **settings.trainer,
    }
    try:
        return TrainingArguments(**options)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(
            f"training.trainer is not accepted by transformers.TrainingArguments: {error}"
        ) from None


def publish(
    student: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    save: str,
    model_card: str,
) -> None:
    """Write the trained model as safetensors that plain transformers loads, by rename, whole or not at all.

    Args:
        student: The trained model, with its adapter if it has one; merging changes it in place.
        tokenizer: Saved beside it with the chat template.
        folder: The folder to make; one that is there is replaced.
        save: "merged", or "adapter" for the adapter alone.
        model_card: The README.md.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    end_ids = sorted(end_token_ids(student, tokenizer))
    if isinstance(student, PeftModel) and save == "merged":
        student = student.merge_and_unload()  # pyright: ignore[reportAssignmentType]
    if student.generation_config is not None:
        student.generation_config.eos_token_id = end_ids if len(end_ids) > 1 else end_ids[0]
    student.save_pretrained(str(temporary))
    tokenizer.save_pretrained(str(temporary))
    (temporary / "README.md").write_text(model_card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


class MetricsFile:
    """metrics.jsonl: one row a step; rows after the checkpoint that training resumes from are written again."""

    def __init__(self, path: Path, *, keep_steps: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= keep_steps]
        path.write_text("".join(kept), encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Add one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, sort_keys=True) + "\n")


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0
