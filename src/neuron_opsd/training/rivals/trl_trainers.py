"""TRL's stable trainers by their public surface: constructor, config, reward functions, callbacks, columns.

TRL is an optional package and is imported here alone. These trainings leave no checkpoint: one that is interrupted
begins again.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from neuron_opsd.config import TrainingSettings
from neuron_opsd.errors import ConfigError
from neuron_opsd.model.device import stay_on
from neuron_opsd.model.load import CausalLM
from neuron_opsd.training.rivals.rewards import Reward
from neuron_opsd.training.train import trainer_options

IGNORED = -100  # the label of a token without loss


def fine_tune(
    student: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    settings: TrainingSettings,
    *,
    folder: Path,
    num_steps: int,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Cross-entropy on the completions, as they were sampled: nothing is decoded and encoded again.

    Args:
        student: What is trained.
        tokenizer: For padding.
        texts: (prompt ids, completion ids).
        settings: `training.*`. `batch_size` texts a step.
        folder: TRL's own files.
        num_steps: Optimiser steps.
        seed: Of the order.
        callbacks: Further Trainer callbacks.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

    rows = [
        {"input_ids": [*prompt, *completion], "labels": [*([IGNORED] * len(prompt)), *completion]}
        for prompt, completion in texts
    ]
    options = _options(
        settings, settings.batch_size, folder=folder, num_steps=num_steps, seed=seed, model=student
    )
    config = _config(SFTConfig, {**options, "max_length": None, "packing": False}, student.device)
    trainer = SFTTrainer(
        model=student,  # pyright: ignore[reportArgumentType]
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def reinforce(
    student: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[dict[str, Any]],
    reward: Reward,
    settings: TrainingSettings,
    *,
    template_args: dict[str, Any],
    folder: Path,
    num_steps: int,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """GRPO: `num_rollouts` completions of each prompt a step, rewarded, advantages within the group.

    Args:
        student: What is trained.
        tokenizer: With its chat template.
        prompts: Rows {"prompt": messages, "prompt_ids", "group": its number}, in the order of the steps.
        reward: Called with each step's completions.
        settings: `training.*`.
        template_args: For the chat template.
        folder: TRL's own files.
        num_steps: Optimiser steps.
        seed: Of the samples.
        callbacks: Further Trainer callbacks.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

    per_step = settings.completions_per_step()
    options = _options(settings, per_step, folder=folder, num_steps=num_steps, seed=seed, model=student)
    config = _config(
        GRPOConfig,
        {
            **options,
            "num_generations": settings.num_rollouts,
            "max_completion_length": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.sample_top_k or 0,  # 0: all
            "mask_truncated_completions": settings.truncated == "mask",
            "beta": settings.kl_weight,
            "shuffle_dataset": False,
            "chat_template_kwargs": template_args,
        },
        student.device,
    )
    trainer = GRPOTrainer(
        model=student,  # pyright: ignore[reportArgumentType]
        reward_funcs=reward,  # pyright: ignore[reportArgumentType]
        args=config,
        train_dataset=Dataset.from_list(list(prompts)),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if "ref" in getattr(student, "peft_config", {}):  # TRL's copy of the initial adapter, for the KL
        student.delete_adapter("ref")  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def _options(
    settings: TrainingSettings, per_step: int, *, folder: Path, num_steps: int, seed: int, model: CausalLM
) -> dict[str, Any]:
    """The options of our own trainer, and what TRL must not decide."""
    return {
        **trainer_options(
            settings, per_step, folder=folder, num_steps=num_steps, seed=seed, device=model.device
        ),
        "save_strategy": "no",
        "bf16": model.dtype == torch.bfloat16,
        "gradient_checkpointing": False,
        "logging_nan_inf_filter": False,
        **settings.trainer,
    }


def _config(make: Callable[..., Any], options: dict[str, Any], device: torch.device) -> Any:
    try:
        config = make(**options)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"The settings of training are not accepted by TRL: {error}") from None
    stay_on(config, device)
    return config
