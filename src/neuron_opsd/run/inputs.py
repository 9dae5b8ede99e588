"""What each stage depends on, from the settings alone: no stage need have run, and no weights are loaded.

The hash of these inputs is a stage's fingerprint. They name everything that changes a record, each as its setting is
called, so that a change can be told in words. An earlier stage is named by its fingerprint (`records`). Left out are
sizes of batches, gradient checkpointing, checkpoint intervals, the device and the versions of environment.json: they
act through rounding alone (which can tip a sampled token), and would make every other machine begin again.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neuron_opsd.config import (
    Config,
    ContextSettings,
    EvaluationSettings,
    RolloutSettings,
)
from neuron_opsd.config.graph import GOLD_LABELS, OF_THE_TRAINED_MODEL, ROLES, STAGES_BEFORE, stages_made
from neuron_opsd.config.model import TEMPLATE_DATE
from neuron_opsd.engines.base import Sampling, sampling_of
from neuron_opsd.errors import DataError, ModelError
from neuron_opsd.model.fingerprint import model_fingerprint
from neuron_opsd.model.locate import context_of, saved_dtype
from neuron_opsd.questions.load import general_questions, load_questions, other_questions, test_questions
from neuron_opsd.records import ExactGeneralRollout, Question
from neuron_opsd.store.files import JsonDict, file_digest
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.stage_folder import READER, fingerprint_of, same_inputs, without_reader
from neuron_opsd.tables.read import is_file_name
from neuron_opsd.text.replies import READER_VERSION

logger = logging.getLogger(__name__)

# Of a stage's code, 1 where it is not named: raise it when the stage makes other records from equal inputs.
CODE_VERSIONS: dict[str, int] = {
    "questions": 2,  # 2: the letters of the file
    **dict.fromkeys(
        ("rollouts", "demonstrations"), 2
    ),  # 2: private-use characters of a question stay in its prompt
    "neurons": 2,  # 2: tokens=answer reads nothing of a reply that was cut inside its thinking
    "selection": 2,  # 2: what was not read is not ranked by neurons
    # 2: no reply that was cut while thinking, 3: own_majority by mean log-probability
    **dict.fromkeys(("contexts", "evaluation/contexts"), 3),
    GOLD_LABELS: 2,  # 2: answers are read as people write them
    # 2: readable answers count, 3: lengths and ends, 4: float32 logits, 5: positions and votes, "cannot tell",
    # 6: order-averaged answers, 7: orders averaged without a position bias
    "preflight": 7,
    "training": 2,  # 2: float32 logits. Merged in float32
    # 2: private-use characters of a question stay in its prompt
    **dict.fromkeys((f"evaluation/{asked}{role}" for asked in ("", "general_") for role in ROLES), 2),
    "evaluation/general_kl": 2,  # 2: float32 logits
    # 2: float32 logits. A block of thinking that the prompt opens is closed before the option, 3: shards as the samples
    **dict.fromkeys((name for name in STAGES_BEFORE if name.endswith("_options")), 3),
}
# Of what a letter is called in each of several orders (`training.teacher_orders`). 2: SentencePiece's letters, too
ORDERS_VERSION = 2
# Stages whose records hold answers that were read out of replies. `text/replies.py` has the reader's own version.
READS_REPLIES = frozenset(
    {
        *("rollouts", "demonstrations", "preflight", "training"),
        *(f"evaluation/{asked}{role}" for asked in ("", "general_") for role in ROLES),
    }
)


class StageInputs:
    """The inputs of every stage of one run under given settings."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        self._made: dict[str, JsonDict] = {}
        self._is_told = False  # that the model is gone

    def of(self, name: str) -> JsonDict:
        """What the records of a stage depend on."""
        makers: dict[str, Callable[[], JsonDict]] = {
            "questions": lambda: {"questions": {"content": _digest(self.questions)}},
            "rollouts": self._rollouts,
            "neurons": self._neurons,
            "selection": self._selection,
            "demonstrations": self._demonstrations,
            "contexts": self._contexts,
            "preflight": self._preflight,
            GOLD_LABELS: self._gold_labels,
            "training": self._training,
            "evaluation/base": lambda: self._evaluation("base"),
            "evaluation/base_options": lambda: self._options("base"),
            "evaluation/base_truth": lambda: self._truth("base"),
            "evaluation/general_base": lambda: self._general("base"),
            "evaluation/general_base_options": lambda: self._options("general_base"),
            "evaluation/general_base_truth": lambda: self._truth("general_base"),
            "evaluation/contexts": self._test_contexts,
            "evaluation/trained": lambda: self._evaluation("trained"),
            "evaluation/trained_options": lambda: self._options("trained"),
            "evaluation/trained_truth": lambda: self._truth("trained"),
            "evaluation/general_trained": lambda: self._general("trained"),
            "evaluation/general_trained_options": lambda: self._options("general_trained"),
            "evaluation/general_trained_truth": lambda: self._truth("general_trained"),
            "evaluation/general_kl": self._general_kl,
        }
        if name not in self._made or name in OF_THE_TRAINED_MODEL:
            inputs = {**makers[name](), "code_version": CODE_VERSIONS.get(name, 1)}
            self._made[name] = inputs | (self._reader(name, inputs) if name in READS_REPLIES else {})
        return self._made[name]

    def _reader(self, name: str, inputs: JsonDict) -> JsonDict:
        """How the answers of a stage are read. `inputs` are its others.

        What a model was trained on keeps the reader it was made with: evaluation alone reads again with a newer one.
        """
        before, today = self.folder.stage(name).manifest(), self.reader
        is_kept = not name.startswith("evaluation/") and before and (before["complete"] or name == "training")
        if before and is_kept and same_inputs(without_reader(before["inputs"]), inputs):
            reader = before["inputs"].get(READER, {})
            if reader.get("pattern") == today.get("pattern"):
                return {READER: reader}
        return {READER: today}

    @property
    def reader(self) -> JsonDict:
        """What reads answers out of replies today."""
        pattern = self.config.prompts.answer_pattern
        return {"version": READER_VERSION, **({"pattern": pattern} if pattern else {})}

    def before(self, name: str) -> tuple[str, ...]:
        """The stages that one reads, of those that these settings make."""
        return tuple(stage for stage in STAGES_BEFORE[name] if stage in self.made)

    @cached_property
    def made(self) -> frozenset[str]:
        """The stages that these settings make."""
        return stages_made(self.config)

    def fingerprint(self, name: str) -> str:
        """The fingerprint that a stage has once it is made from these settings."""
        return fingerprint_of(self.of(name))

    @cached_property
    def questions(self) -> list[Question]:
        """The questions as the settings name them. Those of the run where their file has gone."""
        try:
            return load_questions(self.config.questions)
        except DataError as error:
            stage = self.folder.stage("questions")
            if not stage.is_finished():
                raise
            logger.warning("questions: using the run's own, because the source cannot be read: %s", error)
            return stage.read(Question)

    @cached_property
    def general_questions(self) -> list[Question]:
        """Questions of `evaluation.general_paths` that are not in the run."""
        return general_questions(self.config, self.questions)

    @cached_property
    def other_questions(self) -> list[Question]:
        """Questions of `contexts.other_path` that are not in the run, if they demonstrate."""
        return other_questions(self.config, self.questions)

    @cached_property
    def context_settings(self) -> ContextSettings:
        """`contexts.*`, its token budget lowered where prompt and completion would not fit the model's context."""
        settings = self.config.contexts
        try:
            limit = context_of(self.config.model)
        except ModelError:
            if (made := self._recorded("contexts", "max_prompt_tokens")) is None:
                raise
            return settings.model_copy(update={"max_prompt_tokens": min(settings.max_prompt_tokens, made)})
        name, length = _longest_completion(self.config)
        room = None if limit is None else limit - length
        if room is None or room >= settings.max_prompt_tokens:
            return settings
        logger.info(
            "contexts: at most %d prompt tokens, not contexts.max_prompt_tokens=%d: the model reads %d, and "
            "%s=%d of them are the completion's",
            room,
            settings.max_prompt_tokens,
            limit,
            name,
            length,
        )
        return settings.model_copy(update={"max_prompt_tokens": room})

    def _records(self, *names: str) -> JsonDict:
        return {name: {"records": self.fingerprint(name)} for name in names}

    def _samples(self, *names: str) -> JsonDict:
        """Evaluation's samples, for stages that do not read their answers."""
        return {name: {"records": fingerprint_of(without_reader(self.of(name)))} for name in names}

    def _model(self, name: str | None = None, *, teacher: bool = False) -> JsonDict:
        """A model's files, its dtype, and what turns messages into ids beyond the files."""
        model = self.config.model
        files, template = self._model_files(name or model.name)
        given = {"teacher_template_args": model.teacher_template_args} if teacher else {}
        given |= {"attn_implementation": model.attn_implementation}
        given |= {"template_date": str(model.template_date) if model.template_date != TEMPLATE_DATE else None}
        return {
            "files": files,
            "dtype": saved_dtype(model, name) or model.dtype,
            "chat_template": template,
            "template_args": model.template_args,
        } | {setting: value for setting, value in given.items() if value}

    def _model_files(self, name: str) -> tuple[str, str | None]:
        """Hashes of a model's files and of the template given. Of a base model that is gone, as the run has them."""
        try:
            return model_fingerprint(name), _template_digest(self.config.model.chat_template)
        except ModelError as error:
            made = self._recorded("model", "files"), self._recorded("model", "chat_template")
            if name != self.config.model.name or made[0] is None:
                raise
            if not self._is_told:
                logger.warning(
                    "model: using the run's own records, because the model cannot be read: %s", error
                )
                self._is_told = True
            return made

    def _recorded(self, section: str, key: str) -> Any:
        """An input of the finished stages that read the base model, where this run's settings are asked about."""
        if self.config.model != self.folder.config().model:
            return None
        for name in ("contexts", "evaluation/contexts", "rollouts", "evaluation/base"):
            manifest = self.folder.stage(name).manifest()
            if manifest and manifest["complete"] and section in manifest["inputs"]:
                return manifest["inputs"][section].get(key)
        return None

    def _rollouts(self) -> JsonDict:
        asked = [question for question in self.questions if question.split == "train"]
        return self._zero_shot(asked, self.config.rollouts.num_rollouts)

    def _demonstrations(self) -> JsonDict:
        return self._zero_shot(self.other_questions, 1)

    def _zero_shot(self, asked: Sequence[Question], num_rollouts: int) -> JsonDict:
        settings = self.config.rollouts
        how = {"num_rollouts": num_rollouts, "shuffle_choices": settings.shuffle_choices}
        how |= {"stop_votes": True} if settings.stop_votes and num_rollouts > 1 else {}
        return {
            "rollouts": {
                **_sampling(settings),
                **how,
                "shard_size": settings.shard_size,
            },
            **self._asked(asked, self.config.model.name),
        }

    def _evaluation(self, role: str) -> JsonDict:
        inputs = self._sampled_by(role, test_questions(self.questions), self.config.evaluation)
        if role == "trained" and self.config.evaluation.context:
            inputs |= self._records("evaluation/contexts")
        return inputs

    def _general(self, role: str) -> JsonDict:
        settings = self.config.evaluation.for_general()
        inputs = self._sampled_by(role, self.general_questions, settings)
        # Exact answers to general questions are kept with their states.
        return inputs | ({"record": ExactGeneralRollout.__name__} if settings.exact else {})

    def _sampled_by(self, role: str, asked: Sequence[Question], settings: EvaluationSettings) -> JsonDict:
        is_base = role == "base" or not self.config.training.trains
        model = self.config.model.name if is_base else str(self.folder.model_folder)
        how = {"num_samples": settings.num_samples, "shuffle_choices": settings.shuffle_choices}
        how |= {name: True for name in ("exact", "stop_votes") if getattr(settings, name)}
        how |= {"order_average": True} if settings.order_average and role == "trained" else {}
        return {
            "evaluation": {**_sampling(settings), **how},
            "rollouts": {"shard_size": self.config.rollouts.shard_size},
            **self._asked(asked, model),
        }

    def _asked(self, asked: Sequence[Question], model_name: str) -> JsonDict:
        return {
            "prompts": self.config.prompts.model_dump(
                mode="json", exclude={"keep_thinking", "answer_pattern"}
            ),
            "questions": {"asked": _digest_of_asked(asked)},
            "model": self._model(model_name),
            "seed": self.config.seed,
            **self._engine(),
        }

    def _options(self, role: str) -> JsonDict:
        """Where votes stop, the answers decide in how many orders of its choices a question was seen."""
        settings, size = self.config.evaluation, {"shard_size": self.config.rollouts.shard_size}
        read = self._records if settings.stop_votes and settings.shuffle_choices else self._samples
        return {**read(f"evaluation/{role}"), "rollouts": size}

    def _truth(self, role: str) -> JsonDict:
        """Unlike the options, it depends on which answers were read."""
        size = {"shard_size": self.config.rollouts.shard_size}
        return {**self._records(f"evaluation/{role}"), "rollouts": size}

    def _general_kl(self) -> JsonDict:
        return self._samples("evaluation/general_base", "evaluation/general_trained")

    def _neurons(self) -> JsonDict:
        settings = self.config.neurons.model_dump(mode="json", exclude={"batch_size"})
        return {"neurons": settings, **self._records("rollouts"), "model": self._model()}

    def _selection(self) -> JsonDict:
        settings = self.config.selection
        return {
            "selection": settings.model_dump(mode="json"),
            **self._records("neurons", "rollouts"),
            "seed": self.config.seed if settings.score == "random" else None,
        }

    def _contexts(self) -> JsonDict:
        return {**self._shown(), **self._records("selection" if "selection" in self.made else "rollouts")}

    def _test_contexts(self) -> JsonDict:
        read = [name for name in ("rollouts", "neurons") if name in self.made]
        return {**self._shown(), **self._records(*read), **self._samples("evaluation/base")}

    def _shown(self) -> JsonDict:
        """What contexts depend on beside the questions that read them."""
        settings = self.context_settings
        is_drawn = (
            settings.retrieval in ("random", "other_domain", "fixed_random", "medoids")
            or settings.replies == "permuted"
        )
        return {
            "contexts": settings.model_dump(mode="json", exclude={"other_path"}),
            "prompts": self.config.prompts.model_dump(mode="json", exclude={"answer_pattern"}),
            **self._records(*(name for name in ("demonstrations",) if name in self.made)),
            "model": self._model(teacher=True),
            "seed": self.config.seed if is_drawn else None,
        }

    def _preflight(self) -> JsonDict:
        limit, orders = preflight_sampling(self.config).max_new_tokens, self.config.training.teacher_orders
        entropy = self.config.training.teacher_entropy
        return {
            "preflight": self.config.preflight.model_dump(mode="json"),
            **({"training.teacher_orders": orders, "orders_version": ORDERS_VERSION} if orders > 1 else {}),
            **({} if entropy == "own" else {"training.teacher_entropy": entropy}),
            "the smaller max_new_tokens of rollouts and training": limit,
            **self._both_roles(),
        }

    def _training(self) -> JsonDict:
        settings = self.config.training
        is_read = {
            "unlikely_fraction": settings.objective == "unlikely_tokens",
            "min_truth": settings.verifies,
            "unlikelihood_weight": settings.unlikelihood_weight > 0,
            "teacher_orders": settings.teacher_orders > 1,
            "teacher_entropy": settings.teacher_entropy != "own",
        }
        unread = [name for name, reads in is_read.items() if not reads]
        memory: dict[str, Any] = dict.fromkeys(
            ("micro_batch_size", "loss_chunk_tokens", "keep_prefixes"), True
        )
        memory["trainer"] = {"gradient_checkpointing"}
        named = settings.model_dump(
            mode="json", exclude={"save_steps": True, **memory, **dict.fromkeys(unread, True)}
        )
        named |= {"orders_version": ORDERS_VERSION} if is_read["teacher_orders"] else {}
        reads_temperature = "matched" in (settings.teacher_entropy, settings.student_entropy)
        named |= {"entropy_at": self.config.rollouts.temperature} if reads_temperature else {}
        if "contexts" in self.made:
            return {"training": named, **self._both_roles()}
        pool = [question for question in self.questions if question.split == "train"]
        read = self._records(*(name for name in ("rollouts", "selection", GOLD_LABELS) if name in self.made))
        asked = self._asked(pool, self.config.model.name)
        if settings.is_distillation:  # on contexts that training makes
            asked |= {**self._shown(), "seed": self.config.seed}
        shuffle = {"rollouts.shuffle_choices": self.config.rollouts.shuffle_choices}
        return {"training": named, **read, **shuffle, **asked}

    def _gold_labels(self) -> JsonDict:
        """The one stage before evaluation that depends on gold answers."""
        pool = [question for question in self.questions if question.split == "train"]
        paths, reading = self.config.evaluation.answers, self.config.questions
        gone = [path for path in paths if is_file_name(path) and not Path(path).is_file()]
        if gone:
            raise DataError(f"evaluation.answers: {gone[0]} does not exist. Give the gold answers again.")
        contents = [file_digest(Path(path)) if Path(path).is_file() else path for path in paths]
        read = {"fields": reading.fields, "answer_base": reading.answer_base}
        return {
            "evaluation": {
                "answers": contents,
                **{name: value for name, value in read.items() if value not in ({}, None)},
            },
            "questions": {"asked": _digest_of_asked(pool)},
        }

    def _both_roles(self) -> JsonDict:
        """What student and teacher read: the contexts' fingerprint covers wording, demonstrations and choices."""
        roles = {"model": self._model(teacher=True), "seed": self.config.seed}
        return {**self._records("contexts"), **roles, **self._engine()}

    def _engine(self) -> JsonDict:
        """Another engine draws other samples. Where a server stands changes nothing."""
        engine = self.config.engine
        return (
            {}
            if engine.name == "hf"
            else {"engine": {"name": engine.name, "served_model": engine.served_model}}
        )


def _longest_completion(config: Config) -> tuple[str, int]:
    """The setting that says how long a completion after a teacher prompt may be, and its value."""
    training, evaluation = config.training.max_new_tokens, config.evaluation.max_new_tokens
    if config.evaluation.context and evaluation > training:
        return "evaluation.max_new_tokens", evaluation
    return "training.max_new_tokens", training


def preflight_sampling(config: Config) -> Sampling:
    """The sampling of rollouts, and no longer than training samples."""
    limit = min(config.rollouts.max_new_tokens, config.training.max_new_tokens)
    return dataclasses.replace(sampling_of(config.rollouts), max_new_tokens=limit)


def _template_digest(path: str | None) -> str | None:
    """Digest of the file that replaces the model's template. The model's own is among its files.

    Raises:
        ModelError: it is no file.
    """
    if not path:
        return None
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"model.chat_template: {file} does not exist. Give a Jinja file.")
    return file_digest(file)[:16]


def _sampling(settings: RolloutSettings | EvaluationSettings) -> JsonDict:
    """How a section samples. What it does not set is left out."""
    return {
        name: value for name, value in dataclasses.asdict(sampling_of(settings)).items() if value is not None
    }


def _digest(questions: Sequence[Question]) -> str:
    return _hash([dataclasses.astuple(question) for question in questions])


def _digest_of_asked(questions: Sequence[Question]) -> str:
    """Digest of what models read and what is made of it. What the file calls the choices is left out."""
    named = [dataclasses.asdict(question) for question in questions]
    return _hash([[value for name, value in values.items() if name != "letters"] for values in named])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
