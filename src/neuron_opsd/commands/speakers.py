"""The models of a run that people talk to: base, trained or both. Each is loaded when it is first asked.

They are asked as the run's evaluation asks them: its prompts, chat template, sampling settings and reader of answers.
A run that samples with vLLM is answered by transformers here, which starts in seconds.
"""

import logging
from functools import cached_property
from typing import Literal

from transformers import PreTrainedModel

from neuron_opsd.config import Config
from neuron_opsd.config.graph import ROLES
from neuron_opsd.engines.base import Engine
from neuron_opsd.errors import ConfigError, RunFolderError
from neuron_opsd.evaluation.exact import OneTokenReader
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.run.models import Models
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder

logger = logging.getLogger(__name__)

Which = Literal["base", "trained", "both"]
WHICH = ("base", "trained", "both")


class Speakers:
    """The models of one run to talk to.

    Args:
        folder: The run. Nothing is written to it.
        which: "base", "trained" or "both".

    Raises:
        ConfigError: no such choice.
        RunFolderError: there is no trained model, or a damaged one.
    """

    def __init__(self, folder: RunFolder, which: str = "both") -> None:
        if which not in WHICH:
            raise ConfigError(f"--model is {which!r}. It must be one of {', '.join(WHICH)}.")
        self.roles = tuple(role for role in ROLES if which in (role, "both"))
        if "trained" in self.roles:
            _require_trained(folder)
        self.run = Run(folder)
        self.config = _answered_here(self.run.config)
        self._models: dict[str, Models] = {}
        if self.config.evaluation.context and "trained" in self.roles:
            logger.warning("evaluation.context is true, but no question is given a teacher's context here")

    def model(self, role: str) -> PreTrainedModel:
        """One model, loaded if it is not."""
        return self._of(role).named(self._name(role))

    def engine(self, role: str) -> Engine:
        """What samples from one model."""
        return self._of(role).engine(self._name(role), batch_size=self.config.evaluation.batch_size)

    def load(self) -> None:
        """Load all models now, so that whatever is wrong with one is said at once."""
        for role in self.roles:
            self.engine(role)

    def release(self, role: str) -> None:
        """Free the memory of one model."""
        if role in self._models:
            self._models.pop(role).release()

    @cached_property
    def encoder(self) -> ChatEncoder:
        """The chat template, one for both."""
        return self.run.models.encoder()

    @cached_property
    def reader(self) -> OneTokenReader:
        """Reads replies of one token."""
        return OneTokenReader(self.encoder, self.config.prompts)

    @cached_property
    def max_context(self) -> int | None:
        """Tokens that the models can read, where known."""
        return self.run.models.max_context()

    def _name(self, role: str) -> str:
        return str(self.run.folder.model_folder) if role == "trained" else self.config.model.name

    def _of(self, role: str) -> Models:
        """Of each role one of its own: the models of a run hold one model at a time."""
        if role not in self._models:
            self._models[role] = Models(
                self.config,
                self.run.folder,
                longest_text=self.run.longest_text,
                make_room=self.run.runner.release,
            )
        return self._models[role]


def _answered_here(config: Config) -> Config:
    if config.engine.name != "vllm":
        return config
    return config.model_copy(update={"engine": config.engine.model_copy(update={"name": "hf"})})


def _require_trained(folder: RunFolder) -> None:
    base_alone = "To talk to the base model alone: --model base."
    config = folder.config()
    if not config.training.trains:
        raise RunFolderError(
            f"{folder.path} is a run of the recipe {config.recipe}, which trains no model. {base_alone}"
        )
    try:
        folder.require_model()
    except RunFolderError as error:
        raise RunFolderError(f"{error} {base_alone}") from None
