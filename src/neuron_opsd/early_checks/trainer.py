"""`training.trainer` is passed through to transformers: it is tried here on a model of a few weights."""

import dataclasses
import importlib
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast, get_type_hints

import torch
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments

from neuron_opsd.config import Config, TrainingSettings
from neuron_opsd.errors import ConfigError
from neuron_opsd.training.train import OWNED, training_arguments

UNTRIED = (
    "fsdp",
    "fsdp_config",
)  # a step with them needs several processes, and they take more types than they say


class _Tiny(nn.Module):
    """Two weights, and the attribute that the Trainer reads of a model."""

    config = None

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)


def check_trainer(config: Config) -> None:
    """Refuse values of `training.trainer` that transformers would refuse after hours.

    Raises:
        ConfigError: names the value, and says what transformers says of it.
    """
    settings = config.training
    if not settings.trains:
        return
    _refuse_unknown(settings.trainer)
    problem = _trial(settings, settings.trainer)
    if problem is None:
        return
    # Of several values, the one that fails by itself is the one to name.
    alone = ((name, value, _trial(settings, {name: value})) for name, value in settings.trainer.items())
    for name, value, own in alone:
        if own is not None:
            raise ConfigError(f"training.trainer.{name} is {value!r}, which transformers refuses: {own}")
    raise ConfigError(f"training.trainer is {settings.trainer}, which transformers refuses: {problem}")


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    theirs = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    for name in given:
        if name not in theirs and name not in OWNED:
            near = get_close_matches(name, [*theirs, *OWNED], n=1)
            hint = f" Did you mean {OWNED.get(near[0], f'training.trainer.{near[0]}')}?" if near else ""
            raise ConfigError(
                f"Unknown setting 'training.trainer.{name}'.{hint} It takes what "
                "transformers.TrainingArguments takes."
            )


def _trial(settings: TrainingSettings, given: Mapping[str, Any]) -> str | None:
    """What is wrong with these values of `training.trainer`. None if a step of training can be taken with them."""
    whole = settings.model_copy(update={"trainer": dict(given)})
    tried = settings.model_copy(update={"trainer": {k: v for k, v in given.items() if k not in UNTRIED}})
    if wrong := _wrong_types(given):
        return wrong
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        try:
            _arguments(whole, Path(folder))
            _take_a_step(tried, Path(folder))
        except ConfigError as error:
            return str(error)
        except Exception as error:  # whatever a library raises of a value that it does not like
            return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return None


def _wrong_types(given: Mapping[str, Any]) -> str | None:
    """What is no value of its field's type: transformers itself looks at few of them, and late."""
    fields = get_type_hints(TrainingArguments)
    for name, value in given.items():
        if name in UNTRIED:
            continue
        try:
            TypeAdapter(fields.get(name, Any)).validate_python(value)
        except PydanticSchemaGenerationError:  # a type of transformers' own
            continue
        except ValidationError:
            return f"{name} must be {getattr(fields[name], '__name__', fields[name])}"
    return None


def _arguments(settings: TrainingSettings, folder: Path) -> TrainingArguments:
    return training_arguments(
        settings, folder=folder, num_steps=settings.num_steps, seed=0, device=torch.device("cpu")
    )


def _take_a_step(settings: TrainingSettings, folder: Path) -> None:
    arguments = _arguments(settings, folder)
    rows = [0.0] * arguments.per_device_train_batch_size
    model = _Tiny()
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=torch.tensor)  # pyright: ignore[reportArgumentType]
    trainer.create_optimizer_and_scheduler(settings.num_steps)
    batch = next(iter(trainer.get_train_dataloader()))
    if arguments.use_liger_kernel:
        importlib.import_module("liger_kernel")
    if isinstance(own := arguments.gradient_checkpointing_kwargs, dict):
        checkpoint(model.linear, batch.float()[:, None], **{"use_reentrant": False, **own})
    model.linear(batch.float()[:, None]).sum().backward()
    optimizer, scheduler = cast(Any, trainer.optimizer), cast(Any, trainer.lr_scheduler)
    optimizer.step()
    scheduler.step()
