"""Memory: what a run takes against what is free, before anything is loaded."""

import logging
from collections.abc import Sequence

from neuron_opsd.config import Config
from neuron_opsd.errors import ConfigError
from neuron_opsd.memory.count import in_words
from neuron_opsd.memory.estimate import (
    NOT_COUNTED,
    RunLengths,
    StageMemory,
    estimate_run,
    is_small,
    not_estimated,
    run_lengths,
)
from neuron_opsd.memory.fit import ROOM, fit, parse_size, refuse_too_large, too_large
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.device import device_of
from neuron_opsd.model.environment import free_memory
from neuron_opsd.model.load import load_model_config, load_tokenizer
from neuron_opsd.records import Question

logger = logging.getLogger(__name__)


def check_memory(config: Config, questions: Sequence[Question], until: str = "report") -> None:
    """Refuse a model that is larger than what is free. Warn where a stage may be, and name the settings that help.

    Raises:
        ConfigError: the weights alone do not fit.
    """
    model, limit = load_model_config(config.model), free_memory(device_of(config.model))
    if limit is None or config.model.device_map or is_small(model):
        return
    stages = stage_memory(config, questions, until)
    if isinstance(stages, str):
        logger.info("%s", stages)
        return
    refuse_too_large(stages, limit)
    excess = too_large(stages, limit, engine_adapts=True)
    for stage in excess:
        free = in_words(limit)
        logger.warning(
            "memory: %s is more than %.0f %% of the %s that are free", stage.describe(), 100 * ROOM, free
        )
    if excess:
        try:
            lengths = _lengths(config, questions)
            settings = fit(config, model, lengths, limit, until=until, engine_adapts=True)[1]
        except ConfigError as error:
            logger.warning("memory: %s", error)
        else:
            logger.warning("memory: add --fit, or set %s", " ".join(settings))


def fit_memory(config: Config, questions: Sequence[Question], asked: str, until: str = "report") -> Config:
    """The settings made to fit a size such as `24GB`, or what is `free`.

    Raises:
        ConfigError: it is no size, or nothing makes the run fit.
    """
    limit = free_memory(device_of(config.model)) if asked == "free" else parse_size(asked)
    if limit is None:
        raise ConfigError("--fit: the free memory is unknown here. Give a size, such as --fit 24GB.")
    model, lengths = load_model_config(config.model), _lengths(config, questions)
    fitted, settings = fit(config, model, lengths, limit, until=until)
    what = " ".join(settings) or "nothing had to be set"
    logger.info("memory: to fit %s: %s", in_words(limit), what)
    return fitted


def describe_memory(config: Config, questions: Sequence[Question], until: str = "report") -> list[str]:
    """A line for each stage, and what is free."""
    stages, limit = stage_memory(config, questions, until), free_memory(device_of(config.model))
    if isinstance(stages, str):
        return [stages]
    free = "" if limit is None else f" ({in_words(limit)} are free now)"
    return [f"Memory at the peak, estimated{free}:", *(f"  {stage.describe()}" for stage in stages)]


def stage_memory(
    config: Config, questions: Sequence[Question], until: str = "report"
) -> list[StageMemory] | str:
    """The estimate, or the reason why the architecture cannot be counted."""
    try:
        return estimate_run(config, load_model_config(config.model), _lengths(config, questions), until)
    except NOT_COUNTED as error:
        return not_estimated(error)


def _lengths(config: Config, questions: Sequence[Question]) -> RunLengths:
    encoder = ChatEncoder.of(config.model, load_tokenizer(config.model))
    return run_lengths(config, questions, encoder)
