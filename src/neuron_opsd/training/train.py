"""Prompts -> a trained student. Sets the trainer up and resumes it. `publish.py` makes the files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from neuron_opsd import processes
from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.base import Engine
from neuron_opsd.errors import ConfigError, NotFiniteError, TrainingError
from neuron_opsd.model.device import stay_on
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.model.trainable import trainable
from neuron_opsd.text.answers import Vote
from neuron_opsd.training.checkpoints import (
    TeacherCallback,
    last_complete_checkpoint,
    num_kept_checkpoints,
    read_held_state,
    step_of,
)
from neuron_opsd.training.entropy_match import kept_temperature, measure_temperature
from neuron_opsd.training.figures import MetricsFile
from neuron_opsd.training.group_context import GroupPrompt
from neuron_opsd.training.guard_rails import GuardRails, Stop, limits
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.one_token import ReadAnswer
from neuron_opsd.training.opsd_trainer import OpsdTrainer
from neuron_opsd.training.step_times import shares_of
from neuron_opsd.training.token_budget import TokenBudget
from neuron_opsd.training.whole_copy import WholeCopy

logger = logging.getLogger(__name__)

# Settings of TrainingArguments that our own sections decide. Setting them twice would be a contradiction.
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
    "resume_from_checkpoint": "the same command, which resumes",
    **dict.fromkeys(("push_to_hub", "hub_model_id"), "`neuron-opsd push RUN owner/name` after the run"),
}


@dataclass(frozen=True, slots=True)
class Trained:
    """The student, its adapter (if any) still apart, and how training ended."""

    student: CausalLM
    summary: dict[str, Any]
    shares: dict[str, float] = field(
        default_factory=dict
    )  # of the time, by what took it, where that is measured


def train(
    model: CausalLM,
    make_engine: Callable[[CausalLM], Engine],
    items: LazyItems,
    settings: TrainingSettings,
    *,
    folder: Path,
    num_steps: int,
    seed: int,
    entropy_at: float = 1.0,
    token_budget: int | None = None,
    trainer_type: type[OpsdTrainer] = OpsdTrainer,
    read_answer: ReadAnswer | None = None,
    pseudo_labels: Mapping[str, Vote] | None = None,
    group_prompt: GroupPrompt | None = None,
    end_ids: Sequence[int] = (),
    callbacks: Sequence[TrainerCallback] = (),
    on_first_batch: Callable[[TrainingItem], None] = lambda item: None,
) -> Trained:
    """Distil, resuming from the last complete checkpoint in `folder`.

    Args:
        model: The frozen model. It is changed in place (or wrapped by an adapter).
        make_engine: Builds the engine that samples from the student.
        items: `num_steps * settings.completions_per_step()` places of the schedule.
        settings: `training.*`.
        folder: Where checkpoints and metrics.jsonl go.
        num_steps: Optimiser steps in all.
        seed: The run's seed.
        entropy_at: The sampling temperature at which `teacher_entropy: matched` compares teacher and student.
        token_budget: Ends training with the step at which tokens generated and trained on reach it.
        trainer_type: What a step does.
        read_answer: The answer in a completion, for votes and the parse rate. Without it there are none.
        pseudo_labels: The vote of each question, for `distil: agreeing`.
        group_prompt: Makes the teacher's prompt of a completion of the step's own group. Without it, items have theirs.
        end_ids: Tokens that end a completion, for completions of one token that no engine writes.
        callbacks: Further Trainer callbacks, such as progress.
        on_first_batch: Called with one item of the first step and its completion, for the log.

    Raises:
        ConfigError: `distil` other than `all`, or `group_prompt`, without `read_answer`. `distil: agreeing` without
            `pseudo_labels`.
        TrainingError: the guard rails stopped training before there was a checkpoint to keep.
    """
    if (settings.distil != "all" or group_prompt) and read_answer is None:
        what = "group_prompt" if settings.distil == "all" else f"training.distil={settings.distil}"
        raise ConfigError(f"{what} needs read_answer, to compare answers.")
    if settings.distil == "agreeing" and pseudo_labels is None:
        raise ConfigError("training.distil=agreeing needs pseudo_labels, to agree with.")
    set_seed(seed)
    student = trainable(model, settings, seed=seed)
    copied = WholeCopy(student) if processes.is_sharded() else None
    reader = copied.model if copied else student
    teacher = TeacherWeights(reader, kind=settings.teacher, ema_rate=settings.ema_rate)
    keeper = TeacherCallback(teacher, copied)
    checkpoint = processes.from_main(last_complete_checkpoint(folder) if processes.is_main() else None)
    metrics = MetricsFile(folder / "metrics.jsonl", checkpoint=checkpoint, is_writer=processes.is_main())
    processes.wait_for_all()
    rails, budget = GuardRails(metrics.rows, settings.guard_rails), TokenBudget(metrics.rows, token_budget)
    trainer = trainer_type(
        model=student,
        args=training_arguments(settings, folder=folder, num_steps=num_steps, seed=seed, device=model.device),
        items=items,
        make_engine=partial(make_engine, reader),
        reader=reader,
        teacher=teacher,
        settings=settings,
        read_answer=read_answer,
        pseudo_labels=pseudo_labels,
        group_prompt=group_prompt,
        end_ids=end_ids,
        on_first_batch=on_first_batch,
        on_log=metrics.append,
        on_save=metrics.copy_into,
        callbacks=[keeper, rails, budget, *callbacks],
    )
    if settings.teacher_entropy == "matched":
        measure = partial(measure_temperature, trainer, sampled_at=entropy_at)
        trainer.teacher.temperature = kept_temperature(folder, measure)
    trainer.remove_callback(PrinterCallback)  # figures go to metrics.jsonl, not to standard output
    if checkpoint is not None:
        logger.info("training: resumes at step %d of %d", step_of(checkpoint), num_steps)
    try:
        _run(trainer, keeper, checkpoint, is_stopped=rails.stop is not None, is_spent=budget.is_spent)
    except NotFiniteError as error:
        # One of several processes cannot go back alone.
        if not settings.guard_rails.enabled or processes.num_processes() > 1:
            raise
        rails.stop = rails.stop or rails.broken_weights(str(error))
    if rails.stop is None:
        summary = how_it_ended(None, budget.last_step(num_steps), metrics, settings)
    else:
        summary = _go_back(trainer, folder, rails.stop, metrics, settings)
    if settings.teacher_entropy == "matched":
        summary["teacher_temperature"] = trainer.teacher.temperature
    return Trained(reader, summary, shares_of(trainer.times.total))


def _run(
    trainer: OpsdTrainer,
    keeper: TeacherCallback,
    checkpoint: Path | None,
    *,
    is_stopped: bool,
    is_spent: bool,
) -> None:
    """Train from the checkpoint on, or from the start. What is at its end already (killed there) is only loaded."""
    if checkpoint is None:
        trainer.train()
        return
    keeper.restore(checkpoint)
    trainer.restore_held(read_held_state(checkpoint))
    if is_spent:
        trainer._load_from_checkpoint(str(checkpoint))
    elif not is_stopped:
        trainer.train(resume_from_checkpoint=str(checkpoint))


def _go_back(
    trainer: OpsdTrainer, folder: Path, stop: Stop, metrics: MetricsFile, settings: TrainingSettings
) -> dict[str, Any]:
    """Load the newest checkpoint from before the trouble. The summary says so."""
    best = last_complete_checkpoint(folder, up_to_step=stop.last_healthy_step)
    if best is None:
        raise TrainingError(
            f"Training stopped at step {stop.step} because of {stop.reason.removesuffix('.')}. No checkpoint is "
            "from before that, so there is no model to keep. Lower training.learning_rate "
            f"(now {settings.resolved_learning_rate():g}) or training.save_steps (now {settings.save_steps}), or widen "
            "training.guard_rails."
        )
    logger.warning("training: keeping the model of step %d, from before the trouble", step_of(best))
    trainer._load_from_checkpoint(str(best))
    return how_it_ended(stop, step_of(best), metrics, settings)


def how_it_ended(
    stop: Stop | None, best_step: int, metrics: MetricsFile, settings: TrainingSettings
) -> dict[str, Any]:
    """For the manifest and the report."""
    return {
        "stopped_because": stop.reason if stop else None,
        "stop_step": stop.step if stop else None,
        "best_step": best_step,
        "limits": limits(metrics.rows, settings.guard_rails),
    }


def training_arguments(
    settings: TrainingSettings, *, folder: Path, num_steps: int, seed: int, device: torch.device
) -> TrainingArguments:
    """TrainingArguments from our section and the pass-through `training.trainer`.

    Raises:
        ConfigError: a pass-through setting that is unknown, wrong, or decided by another section.
    """
    options: dict[str, Any] = {
        **trainer_options(
            settings,
            settings.completions_per_step(),
            folder=folder,
            num_steps=num_steps,
            seed=seed,
            device=device,
        ),
        "save_steps": settings.save_steps,
        "save_total_limit": num_kept_checkpoints(settings),
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        **settings.trainer,
    }
    try:
        arguments = TrainingArguments(**options)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(
            f"training.trainer is not accepted by transformers.TrainingArguments: {error}"
        ) from None
    stay_on(arguments, device)
    return arguments


def trainer_options(
    settings: TrainingSettings,
    per_step: int,
    *,
    folder: Path,
    num_steps: int,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """What every trainer that stands on `transformers.Trainer` takes from the settings, ours and the rivals'.

    Args:
        settings: `training.*`.
        per_step: Rows of an optimiser step, over all processes.
        folder: The trainer's own.
        num_steps: Optimiser steps.
        seed: The run's.
        device: Of the model.

    Raises:
        ConfigError: a pass-through setting that another section decides, or rows that no micro-batches make up.
    """
    for name, ours in OWNED.items():
        if name in settings.trainer:
            raise ConfigError(f"training.trainer.{name} is decided by {ours}. Use that instead.")
    world_size = processes.num_processes()
    accumulation, rest = divmod(per_step, settings.micro_batch_size * world_size)
    if rest or not accumulation:
        raise ConfigError(
            f"training.batch_size is {settings.batch_size}, with num_rollouts {settings.num_rollouts}: {per_step} rows "
            f"a step, which must be a multiple of training.micro_batch_size ({settings.micro_batch_size}) times the "
            f"number of processes ({world_size})."
        )
    return {
        "output_dir": str(folder),
        "max_steps": num_steps,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": settings.resolved_learning_rate(),
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": min(settings.warmup_steps, num_steps // 2),
        "weight_decay": 0.0,
        "max_grad_norm": settings.max_grad_norm,
        "seed": seed,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
        "use_cpu": device.type == "cpu",
    }
