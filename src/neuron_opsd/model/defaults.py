"""Defaults that depend on the model or on the machine: filled in when a run begins, and written out with the rest."""

import logging
from typing import Any

import torch

from neuron_opsd.config import Config, EvaluationSettings
from neuron_opsd.config.run import LIMITED
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.device import device_of, dtype_of, name_of
from neuron_opsd.model.load import load_tokenizer

logger = logging.getLogger(__name__)

THINKING_TOKENS = 8192  # a reply that thinks is several times as long, and without its end it has no answer


def resolve(config: Config) -> Config:
    """The settings with dtypes, token limits and the Trainer's options as they hold for this model on this machine.

    Raises:
        ModelError: no tokenizer, or no such device.
    """
    device, dtype = device_of(config.model), dtype_of(config.model)
    training: dict[str, Any] = {
        "dtype": _training_dtype(config, dtype),
        "trainer": {**_trainer_options(device, dtype), **config.training.trainer},
    }
    changes: dict[str, dict[str, Any]] = {"model": {"dtype": name_of(dtype)}, "training": training}
    if config.evaluation.exact:
        changes["evaluation"] = _exact_evaluation(config.evaluation)
    unset = [
        name
        for name in LIMITED
        if "max_new_tokens" not in getattr(config, name).model_fields_set | changes.get(name, {}).keys()
    ]
    if unset and thinks(config):
        logger.info("the chat template thinks: up to %d tokens in %s", THINKING_TOKENS, ", ".join(unset))
        for name in unset:
            changes.setdefault(name, {})["max_new_tokens"] = THINKING_TOKENS
    for name in unset:
        changes.setdefault(name, {}).setdefault("max_new_tokens", getattr(config, name).max_new_tokens)
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in changes.items()}
    return config.model_copy(update=sections)


def _exact_evaluation(settings: EvaluationSettings) -> dict[str, Any]:
    """One token a reply, and one reply for each order of the choices."""
    orders = {} if settings.shuffle_choices else {"num_samples": 1, "general_samples": None}
    return {"max_new_tokens": 1, **orders}


def thinks(config: Config) -> bool:
    """Whether replies begin with thinking."""
    encoder = ChatEncoder.of(config.model, load_tokenizer(config.model))
    return encoder.thinks(system=config.prompts.system)


def _training_dtype(config: Config, dtype: torch.dtype) -> str:
    if config.training.dtype != "auto":
        return config.training.dtype
    # Small steps on all weights round to nothing in bfloat16, and float16 has no room for gradients.
    is_float32 = config.training.method == "full" or dtype == torch.float16
    return "float32" if is_float32 else name_of(dtype)


def _trainer_options(device: torch.device, dtype: torch.dtype) -> dict[str, bool]:
    """What fits a step of a model of billions of parameters on one GPU."""
    if device.type != "cuda":
        return {}
    return {"gradient_checkpointing": True, **({"bf16": True} if dtype == torch.bfloat16 else {})}
