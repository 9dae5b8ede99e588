"""What each stage depends on, from the settings alone: no stage need have run, and no weights are loaded.

The hash of these inputs is a stage's fingerprint. They name everything that changes a record, and an earlier stage by
its fingerprint. Left out are sizes of batches, checkpoint intervals, the device and the versions of environment.json:
they act through rounding alone (which can tip a sampled token), and would make every other machine begin again.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import Config, ContextSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.errors import DataError
from neuron_opsd.files import JsonDict
from neuron_opsd.model.fingerprint import model_fingerprint
from neuron_opsd.model.load import configured_context, load_tokenizer
from neuron_opsd.questions.load import load_general_questions, load_questions
from neuron_opsd.records import Question
from neuron_opsd.rollouts.sample import sampling_of
from neuron_opsd.run_folder import RunFolder
from neuron_opsd.stage_folder import fingerprint_of

logger = logging.getLogger(__name__)

CODE_VERSION = 1  # raise it when a stage makes other records from equal inputs

TRAINED_FROM = ("questions", "rollouts", "neurons", "selection", "contexts")
ROLES = ("base", "trained")
# Each stage with those whose records it reads, in the order of a run.
STAGES_BEFORE: dict[str, tuple[str, ...]] = {
    "questions": (),
    "rollouts": ("questions",),
    "neurons": ("questions", "rollouts"),
    "selection": ("questions", "rollouts", "neurons"),
    "contexts": ("questions", "rollouts", "neurons", "selection"),
    "preflight": TRAINED_FROM,
    "training": TRAINED_FROM,
    "evaluation/base": ("questions",),
    "evaluation/base_options": ("questions", "evaluation/base"),
    "evaluation/general_base": ("questions",),
    "evaluation/trained": (*TRAINED_FROM, "training"),
    "evaluation/trained_options": (*TRAINED_FROM, "training", "evaluation/trained"),
    "evaluation/general_trained": (*TRAINED_FROM, "training"),
    "evaluation/general_kl": (
        *TRAINED_FROM, "training", "evaluation/general_base", "evaluation/general_trained",
    ),
}  # fmt: skip
# Their inputs hold the trained weights, which appear while a run goes on.
OF_THE_TRAINED_MODEL = tuple(name for name, before in STAGES_BEFORE.items() if "training" in before)


class StageInputs:
    """The inputs of every stage of one run under given settings."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        self._made: dict[str, JsonDict] = {}

    def of(self, name: str) -> JsonDict:
        """What the records of a stage depend on."""
        makers: dict[str, Callable[[], JsonDict]] = {
            "questions": lambda: {"records": _digest(self.questions)},
            "rollouts": self._rollouts,
            "neurons": self._neurons,
            "selection": self._selection,
            "contexts": self._contexts,
            "preflight": self._preflight,
            "training": self._training,
            "evaluation/base": lambda: self._evaluation("base"),
            "evaluation/base_options": lambda: self._options("base"),
            "evaluation/general_base": lambda: self._general("base"),
            "evaluation/trained": lambda: self._evaluation("trained"),
            "evaluation/trained_options": lambda: self._options("trained"),
            "evaluation/general_trained": lambda: self._general("trained"),
            "evaluation/general_kl": self._general_kl,
        }
        if name not in self._made or name in OF_THE_TRAINED_MODEL:
            self._made[name] = {**makers[name](), "version": CODE_VERSION}
        return self._made[name]

    def fingerprint(self, name: str) -> str:
        """The fingerprint that a stage has once it is made from these settings."""
        return fingerprint_of(self.of(name))

    @cached_property
    def questions(self) -> list[Question]:
        """The questions as the settings name them; those of the run where their file has gone."""
        try:
            return load_questions(self.config.questions)
        except DataError as error:
            stage = self.folder.stage("questions")
            if not stage.is_finished():
                raise
            logger.warning("questions: the run's own are used, because the source cannot be read: %s", error)
            return stage.read(Question)

    @cached_property
    def general_questions(self) -> list[Question]:
        """Those of `evaluation.general_paths` that are not in the run."""
        return general_questions(self.config, self.questions)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return load_tokenizer(self.config.model)

    @cached_property
    def context_settings(self) -> ContextSettings:
        """`contexts.*`, its token budget lowered where prompt and completion would not fit the model's context."""
        settings, limit = self.config.contexts, configured_context(self.config.model)
        room = None if limit is None else limit - self.config.training.max_new_tokens
        if room is None or room >= settings.max_prompt_tokens:
            return settings
        logger.info(
            "contexts: at most %d prompt tokens, not contexts.max_prompt_tokens=%d: the model reads %d, and "
            "training.max_new_tokens=%d of them are the completion's",
            room,
            settings.max_prompt_tokens,
            limit,
            self.config.training.max_new_tokens,
        )
        return settings.model_copy(update={"max_prompt_tokens": room})

    def _rollouts(self) -> JsonDict:
        settings = self.config.rollouts
        asked = [question for question in self.questions if question.split == "train"]
        return self._sampled(asked, settings, settings.num_rollouts, self.config.model.name)

    def _evaluation(self, role: str) -> JsonDict:
        asked = [question for question in self.questions if question.split == "test"]
        return self._sampled_by(role, asked)

    def _general(self, role: str) -> JsonDict:
        return self._sampled_by(role, self.general_questions)

    def _sampled_by(self, role: str, asked: Sequence[Question]) -> JsonDict:
        settings = self.config.evaluation
        model = self.config.model.name if role == "base" else str(self.folder.path / "model")
        return self._sampled(asked, settings, settings.num_samples, model)

    def _options(self, role: str) -> JsonDict:
        return {
            "samples": self.fingerprint(f"evaluation/{role}"),
            "shard_size": self.config.rollouts.shard_size,
        }

    def _general_kl(self) -> JsonDict:
        return {f"general_{role}": self.fingerprint(f"evaluation/general_{role}") for role in ROLES}

    def _sampled(
        self, asked: Sequence[Question], settings: Any, num_rollouts: int, model_name: str
    ) -> JsonDict:
        return {
            "sampling": {
                **dataclasses.asdict(sampling_of(settings)),
                "num_rollouts": num_rollouts,
                "shuffle_choices": settings.shuffle_choices,
            },
            "prompts": self.config.prompts.model_dump(mode="json", exclude={"keep_thinking"}),
            "asked": _digest(asked),
            "model": model_fingerprint(model_name),
            "template": self._template(),
            "dtype": self.config.model.dtype,
            "seed": self.config.seed,
            "shard_size": self.config.rollouts.shard_size,
        }

    def _neurons(self) -> JsonDict:
        return {
            "neurons": self.config.neurons.model_dump(mode="json", exclude={"batch_size"}),
            "rollouts": self.fingerprint("rollouts"),
            "model": model_fingerprint(self.config.model.name),
            "dtype": self.config.model.dtype,
        }

    def _selection(self) -> JsonDict:
        settings = self.config.selection
        return {
            "selection": settings.model_dump(mode="json"),
            "neurons": self.fingerprint("neurons"),
            "rollouts": self.fingerprint("rollouts"),
            "seed": self.config.seed if settings.score == "random" else None,
        }

    def _contexts(self) -> JsonDict:
        settings = self.context_settings
        return {
            "contexts": settings.model_dump(mode="json"),
            "prompts": self.config.prompts.model_dump(mode="json"),
            "selection": self.fingerprint("selection"),
            "template": self._template(teacher=True),
            "seed": self.config.seed if settings.retrieval == "random" else None,
        }

    def _preflight(self) -> JsonDict:
        config = self.config
        return {
            "preflight": config.preflight.model_dump(mode="json"),
            "sampling": dataclasses.asdict(preflight_sampling(config)),
            "shuffle_choices": config.rollouts.shuffle_choices,
            "prompts": config.prompts.model_dump(mode="json"),
            "contexts": self.fingerprint("contexts"),
            "context_order": config.contexts.order,
            "model": model_fingerprint(config.model.name),
            "template": self._template(teacher=True),
            "dtype": config.model.dtype,
            "seed": config.seed,
        }

    def _training(self) -> JsonDict:
        config = self.config
        return {
            "training": config.training.model_dump(mode="json", exclude={"save_steps", "loss_chunk_tokens"}),
            "prompts": config.prompts.model_dump(mode="json"),
            "contexts": self.fingerprint("contexts"),
            "context_order": config.contexts.order,
            "shuffle_choices": config.rollouts.shuffle_choices,
            "model": model_fingerprint(config.model.name),
            "dtype": config.model.dtype,
            "seed": config.seed,
        }

    def _template(self, *, teacher: bool = False) -> str:
        """A hash of what turns messages into ids, beyond the model's own files."""
        model = self.config.model
        parts: list[Any] = [self.tokenizer.chat_template, model.template_args]
        if teacher and model.teacher_template_args:
            parts.append(model.teacher_template_args)
        return _hash(parts)


def preflight_sampling(config: Config) -> Sampling:
    """As for rollouts, and no longer than training samples."""
    limit = min(config.rollouts.max_new_tokens, config.training.max_new_tokens)
    return dataclasses.replace(sampling_of(config.rollouts), max_new_tokens=limit)


def general_questions(config: Config, run: Sequence[Question]) -> list[Question]:
    """The questions of `evaluation.general_paths` that are not in the run."""
    settings = config.evaluation
    return load_general_questions(
        settings.general_paths, max_questions=settings.max_general, seed=config.questions.seed, run=run
    )


def _digest(questions: Sequence[Question]) -> str:
    return _hash([dataclasses.astuple(question) for question in questions])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
