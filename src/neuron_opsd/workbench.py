"""What the stages of one run share: the folder, the settings, and a model that is loaded at most once at a time."""

import gc
import importlib.util
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from neuron_opsd import processes
from neuron_opsd.config import Config, ContextSettings
from neuron_opsd.engines.base import Engine
from neuron_opsd.engines.choose import other_engine
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.environment import describe_environment
from neuron_opsd.errors import ConfigError, DataError, ModelError, RunFolderError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.ffn import check_architecture
from neuron_opsd.model.load import (
    CausalLM,
    check_quantization,
    configured_context,
    load_model,
    load_model_config,
    load_tokenizer,
    max_context_tokens,
)
from neuron_opsd.progress import Tracker
from neuron_opsd.questions.load import load_questions
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.rollouts.sample import MessagesOf, check_fits, choice_orders, map_answer_back
from neuron_opsd.run_folder import RunFolder
from neuron_opsd.runners import InProcessRunner, Runner
from neuron_opsd.selection.score import num_kept
from neuron_opsd.stage_cache import default_cache
from neuron_opsd.stage_folder import StageFolder
from neuron_opsd.stage_inputs import (
    StageInputs,
    general_questions,
    other_questions,
    stages_made,
    test_questions,
)
from neuron_opsd.teacher.context import context_messages
from neuron_opsd.teacher.preflight import PromptPair, sample_ids
from neuron_opsd.text.answers import extract_answer
from neuron_opsd.text.prompts import Message, student_messages
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.schedule import num_steps, question_order

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class StageRun:
    """Whether a stage has work to do, and what it did."""

    is_needed: bool
    num_tokens: int = 0


class Workbench:
    """One run in this process."""

    def __init__(self, folder: RunFolder, *, runner: Runner | None = None) -> None:
        self.folder = folder
        self.runner = runner or InProcessRunner()
        self.cache = default_cache()
        self.config = folder.config()
        self.inputs = StageInputs(self.config, folder)
        if self.config.num_threads:
            torch.set_num_threads(self.config.num_threads)
        self._loaded: tuple[str, PreTrainedModel, PreTrainedTokenizerBase] | None = None
        self._engine: tuple[str, Engine] | None = None  # one that is not hf, and the model it serves
        self._contexts: dict[str, TeacherContext] = {}

    def inputs_of(self, name: str) -> dict[str, Any]:
        """What a stage depends on, once those that it reads are there.

        Raises:
            RunFolderError: one of them is missing, unfinished or made from other settings; says which, and why.
        """
        for before in self.inputs.before(name):
            self.folder.stage(before).require(self.inputs.of(before))
        return self.inputs.of(name)

    def is_current(self, name: str) -> bool:
        """Whether a stage is finished, and made from the settings as they are."""
        if not self.folder.stage(name).manifest():
            return False
        try:
            inputs = self.inputs.of(name)
        except (ModelError, DataError) as error:  # a report is still possible where the model is not
            logger.warning("%s: not compared with the settings: %s", name, error)
            return self.folder.is_current(name)
        return self.folder.stage(name).is_finished(inputs)

    @contextmanager
    def stage_run(
        self, stage: StageFolder, inputs: dict[str, Any], *, outdates_results: bool = True
    ) -> Iterator[StageRun]:
        """Skip a finished stage, or take it from the shared cache; time, announce and share one that has work to do."""
        run = StageRun(is_needed=processes.from_main(not stage.is_finished(inputs)))
        started = time.monotonic()
        if run.is_needed and processes.is_main():
            self.folder.write_json("environment.json", describe_environment())
            if outdates_results:  # results of before are no longer this run's; evaluation writes them again
                (self.folder.path / "evaluation" / "results.json").unlink(missing_ok=True)
        is_taken = processes.from_main(
            run.is_needed and processes.is_main() and self.cache.take(stage, inputs)
        )
        run.is_needed = run.is_needed and not is_taken
        yield run
        if not processes.is_main():
            return
        self.cache.publish(stage, self.folder.path)
        if not run.is_needed:
            how = f"taken from the cache {self.cache.root}" if is_taken else "finished before"
            logger.info("%s: %s, nothing to do", stage.name, how)
            return
        seconds = time.monotonic() - started
        count = stage.num_records()
        row = {
            "stage": stage.name,
            "seconds": round(seconds, 1),
            "num_items": count,
            "num_tokens": run.num_tokens,
        }
        self.folder.add_timing(row)
        logger.info("%s: %d records in %s", stage.name, count, stage.path)

    @cached_property
    def questions(self) -> list[Question]:
        """All questions of the run."""
        return self.folder.stage("questions").read(Question)

    @property
    def questions_by_id(self) -> dict[str, Question]:
        """The pool by id."""
        return {question.question_id: question for question in self.pool}

    @property
    def pool(self) -> list[Question]:
        """The unlabelled questions that training may use."""
        return [question for question in self.questions if question.split == "train"]

    @property
    def test_questions(self) -> list[Question]:
        """The questions that only evaluation asks, in an order that does not depend on the domain trained on."""
        return test_questions(self.questions)

    @property
    def train_domain(self) -> str:
        """The one domain of the pool.

        Raises:
            ConfigError: the pool spans several, so "in-domain" would have no meaning.
        """
        return single_domain(self.pool)

    @cached_property
    def other_questions(self) -> list[Question]:
        """The questions of `contexts.other_path`, where they are to demonstrate; none of them is in the run."""
        return self.inputs.other_questions

    @property
    def shown_by_id(self) -> dict[str, Question]:
        """Every question that a demonstration may show, and those of the pool, by id."""
        return self.questions_by_id | {question.question_id: question for question in self.other_questions}

    def first_rollouts(self) -> dict[str, Rollout]:
        """The rollout of each pool question that gives the neuron signal and demonstrates."""
        rollouts = self.folder.stage("rollouts").read(Rollout)
        return {rollout.question_id: rollout for rollout in rollouts if rollout.rollout_index == 0}

    def selected_ids(self) -> list[str]:
        """The questions that training keeps, best first."""
        records = self.folder.stage("selection").read(SelectedQuestion)
        return [
            record.question_id
            for record in sorted(records, key=lambda r: (r.domain, r.rank))
            if record.selected
        ]

    def base_model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen model, loaded if it is not."""
        return self._load(self.config.model.name)

    def model_config(self) -> PretrainedConfig:
        """The base model's configuration, without its weights."""
        return load_model_config(self.config.model)

    def release_model(self) -> None:
        """Free the memory of whatever model is loaded here, for other processes."""
        self._close_engine()
        if self._loaded is not None:
            self._loaded = None
            gc.collect()
            torch.cuda.empty_cache()

    def take_base_model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen model for training, which changes it: this workbench forgets it."""
        quantization = self.config.training.quantization
        if quantization != "none":
            self._loaded = None  # neurons are read from whole matrices; training has its own copy
            return load_model(self.config.model, quantization=quantization)
        taken = self.base_model()
        self._loaded = None
        return taken

    def engine(self, model_name: str, *, batch_size: int) -> Engine:
        """An engine on a model by name. A server has the base model alone: the trained one is sampled here."""
        if self._is_sampled_here(model_name):
            model, tokenizer = self._load(model_name)
            return HFEngine(model, tokenizer, batch_size=batch_size)
        if self._engine is None or self._engine[0] != model_name:
            self._loaded = None  # one model in memory at a time
            self._close_engine()
            self._engine = (
                model_name,
                other_engine(self.config, self.tokenizer, model_name=model_name),
            )
        return self._engine[1]

    def engine_identity(self, model_name: str) -> dict[str, str]:
        """Name and version of the engine on a model, for the record; no model is loaded."""
        if self._is_sampled_here(model_name):
            return HFEngine.identity()
        if self.config.engine.name == "vllm":
            from neuron_opsd.engines.vllm import VLLMEngine

            return VLLMEngine.identity()
        return self.engine(model_name, batch_size=1).identity()

    def _is_sampled_here(self, model_name: str) -> bool:
        name = self.config.engine.name
        return name == "hf" or (name == "server" and model_name != self.config.model.name)

    def model(self, model_name: str) -> PreTrainedModel:
        """A model by name, loaded if it is not."""
        return self._load(model_name)[0]

    def make_engine(self, model: CausalLM) -> Engine:
        """The engine that samples from the student in training."""
        if self.config.engine.name != "hf":
            name = self.config.model.name
            engine = other_engine(self.config, self.tokenizer, model_name=name, student=model)
            self._engine = ("the student", engine)
            return engine
        return HFEngine(model, self.tokenizer, batch_size=self.config.rollouts.batch_size)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return load_tokenizer(self.config.model)

    def encoder(self, *, teacher: bool = False) -> ChatEncoder:
        """The one door from messages to token ids; the teacher's prompt may have template arguments of its own."""
        model = self.config.model
        own = model.teacher_template_args if teacher else {}
        return ChatEncoder(self.tokenizer, template_args={**model.template_args, **own})

    def context_settings(self) -> ContextSettings:
        """`contexts.*`, its token budget lowered where prompt and completion would not fit the model's context."""
        return self.inputs.context_settings

    def max_context(self) -> int | None:
        """Tokens that the model can read."""
        return max_context_tokens(self._loaded[1]) if self._loaded else configured_context(self.config.model)

    def training_items(self, num_items: int) -> LazyItems:
        """The schedule, a place for each completion: both prompts, the choices in the same order for both roles."""
        num_rollouts = self.config.training.num_rollouts
        order = question_order(self.selected_ids(), num_items // num_rollouts, seed=self.config.seed)

        @lru_cache(maxsize=64)  # the completions of one question follow one another
        def prompts(group: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
            student, teacher = self.both_messages(order[group], self.training_choices(order[group], group))
            return tuple(self.encoder().encode(student)), tuple(self.encoder(teacher=True).encode(teacher))

        def make_item(index: int) -> TrainingItem:
            question_id, (student, teacher) = order[index // num_rollouts], prompts(index // num_rollouts)
            return TrainingItem(
                question_id=question_id,
                student_ids=student,
                teacher_ids=teacher,
                seed=derive_seed(self.config.seed, "training", question_id, index),
            )

        return LazyItems(num_items, make_item)

    def longest_prompts(self) -> tuple[int, int]:
        """Tokens of the selection's longest student prompt, and of its longest teacher prompt."""
        contexts = [self.context(question_id) for question_id in self.selected_ids()]
        return (
            max(context.num_student_prompt_tokens for context in contexts),
            max(context.num_teacher_prompt_tokens for context in contexts),
        )

    def training_choices(self, question_id: str, group: int) -> tuple[int, ...]:
        """The order of the choices for the completions of one group of the schedule."""
        return choice_orders(
            self.questions_by_id[question_id],
            1,
            shuffle=self.config.rollouts.shuffle_choices,
            seed=self.config.seed,
            stage=f"training {group}",
        )[0]

    def read_answer(self, item: TrainingItem) -> str | None:
        """The answer in a completion of training, by the rules of the rollouts: for votes, never for a loss."""
        choices = self.questions_by_id[item.question_id].choices
        order = self.training_choices(item.question_id, item.place // self.config.training.num_rollouts)
        answer = extract_answer(
            self.encoder().decode_reply(item.completion_ids),
            choices=[choices[i] for i in order],
            answer_format=self.config.prompts.answer_format,
        )
        return map_answer_back(answer, order)

    def preflight_pairs(self) -> list[PromptPair]:
        """Both prompts of each sample of the questions that the preflight looks at, question by question."""
        settings, seed, encoder = self.config.preflight, self.config.seed, self.encoder()
        teacher_encoder = self.encoder(teacher=True)
        pairs: list[PromptPair] = []
        for question_id in sample_ids(self.selected_ids(), settings.num_questions, seed=seed):
            orders = choice_orders(
                self.questions_by_id[question_id],
                settings.num_samples,
                shuffle=self.config.rollouts.shuffle_choices,
                seed=seed,
                stage="preflight",
            )
            for index, order in enumerate(orders):
                student, teacher = self.both_messages(question_id, order)
                pairs.append(
                    PromptPair(
                        question_id=question_id,
                        choice_order=order,
                        student_ids=tuple(encoder.encode(student)),
                        teacher_ids=tuple(teacher_encoder.encode(teacher)),
                        seed=derive_seed(seed, "preflight", question_id, index),
                    )
                )
        return pairs

    def both_messages(self, question_id: str, choice_order: tuple[int, ...]) -> tuple[list, list]:
        """The student's and the teacher's messages for one question."""
        question, prompts = self.questions_by_id[question_id], self.config.prompts
        student = student_messages(
            question, choice_order=choice_order, answer_format=prompts.answer_format, system=prompts.system
        )
        teacher = context_messages(
            question,
            self.context(question_id).demonstrations,
            self.shown_by_id,
            choice_order=choice_order,
            settings=self.config.contexts,
            prompts=prompts,
        )
        return student, teacher

    def teacher_messages_of(self, stage: str, questions: Sequence[Question]) -> MessagesOf:
        """What is read before these questions by the contexts of a stage, for any order of the choices."""
        contexts = {context.question_id: context for context in self.folder.stage(stage).read(TeacherContext)}
        known = self.shown_by_id | {question.question_id: question for question in questions}

        def messages(question: Question, choice_order: tuple[int, ...]) -> list[Message]:
            return context_messages(
                question,
                contexts[question.question_id].demonstrations,
                known,
                choice_order=choice_order,
                settings=self.config.contexts,
                prompts=self.config.prompts,
            )

        return messages

    def context(self, question_id: str) -> TeacherContext:
        """The teacher context of one selected question.

        Raises:
            RunFolderError: the question was not selected, or does not exist.
        """
        if not self._contexts:
            contexts = self.folder.stage("contexts").read(TeacherContext)
            self._contexts = {context.question_id: context for context in contexts}
        if question_id not in self._contexts:
            known = {question.question_id for question in self.questions}
            what = "was not selected for training" if question_id in known else "is no question of this run"
            raise RunFolderError(
                f"{question_id!r} {what}. The selected ones are in {self.folder.path / 'contexts' / 'records.jsonl'}."
            )
        return self._contexts[question_id]

    def show(self, question_id: str) -> dict[str, Any]:
        """Exactly what student and teacher read for one selected question, and how long it is."""
        context = self.context(question_id)
        identity = tuple(range(len(self.questions_by_id[question_id].choices)))
        encoder = self.encoder()
        messages = self.both_messages(question_id, identity)
        student, teacher = encoder.encode(messages[0]), self.encoder(teacher=True).encode(messages[1])
        return {
            "question_id": question_id,
            "student_prompt": encoder.decode(student),
            "teacher_prompt": encoder.decode(teacher),
            "num_student_prompt_tokens": len(student),
            "num_teacher_prompt_tokens": len(teacher),
            "num_demonstrations": len(context.demonstrations),
            "num_demonstrations_dropped": context.num_demonstrations_dropped,
        }

    def log_first_item(self, item: TrainingItem) -> None:
        """At step 0: one student prompt, teacher prompt and completion as they are."""
        encoder = self.encoder()
        for name, ids in (
            ("student prompt", item.student_ids),
            ("teacher prompt", item.teacher_ids),
            ("completion", item.completion_ids),
        ):
            logger.info("train: first %s (%d tokens):\n%s", name, len(ids), encoder.decode(ids))

    @staticmethod
    def progress_callback(tracker: Tracker) -> TrainerCallback:
        """Shows steps as they end, with the divergence."""
        return _ProgressCallback(tracker)

    def _load(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # free the other model first
            self._close_engine()
            self._loaded = (name, *load_model(self.config.model, name=name))
        return self._loaded[1], self._loaded[2]

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._engine[1].close()
            self._engine = None


class _ProgressCallback(TrainerCallback):
    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.has_told = tracker, False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.tracker.done = self.tracker.resumed_from = state.global_step
        self.tracker.restart_clock()

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "divergence" in logs:
            note = f"divergence {logs['divergence']:.4f}, {logs['completion_tokens_mean']:.0f} tokens a completion"
            steps = state.global_step - self.tracker.done
            self.tracker.advance(steps, tokens=logs["num_completion_tokens"], note=note)
            left = state.max_steps - state.global_step
            if self.tracker.done - self.tracker.resumed_from >= 2 and left and not self.has_told:
                self.has_told = True
                logger.info("train: about %s for the remaining %d steps", self.tracker.describe_left(), left)


def check_early(config: Config) -> list[Question]:
    """Everything that can be refused before any work: questions, one domain, tokenizer, question lengths, answers.

    Returns:
        The questions, read.

    Raises:
        NeuronOpsdError: what is wrong, and the next step.
    """
    questions = load_questions(config.questions)
    single_domain(questions)
    for name in ("answers", "general_answers"):
        for path in getattr(config.evaluation, name):
            if not Path(path).is_file():
                raise DataError(
                    f"evaluation.{name} names {path}, which is no file. Leave it out if you have none."
                )
    check_architecture(load_model_config(config.model))
    if config.training.quantization != "none":
        check_quantization(config.model)
    tokenizer = load_tokenizer(config.model)
    encoder = ChatEncoder(tokenizer, template_args=config.model.template_args)
    check_retrieval(config, questions)
    check_lengths([*questions, *general_questions(config, questions)], encoder, config)
    return questions


def single_domain(questions: Sequence[Question]) -> str:
    """The one domain of the pool.

    Raises:
        ConfigError: the pool spans several, so "in-domain" would have no meaning.
    """
    domains = sorted({question.domain for question in questions if question.split == "train"})
    if len(domains) != 1:
        raise ConfigError(
            f"The pool holds {len(domains)} domains ({', '.join(domains[:6])}). Train on one at a time: set "
            f"questions.domain={domains[0] if domains else '...'}; the others become cross-domain sets."
        )
    return domains[0]


def check_retrieval(config: Config, questions: Sequence[Question]) -> None:
    """Refuse a retrieval whose package or file is missing.

    Raises:
        ConfigError: names what is missing.
        DataError: the file of the other domain adds no question.
    """
    other_questions(config, questions)
    if config.contexts.retrieval == "tfidf" and importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            "contexts.retrieval is tfidf, which needs scikit-learn. Install it with pip install neuron-opsd[baselines]."
        )


def check_lengths(questions: Sequence[Question], encoder: ChatEncoder, config: Config) -> None:
    """Refuse a question that leaves no room for its answer in the model's context.

    Raises:
        DataError: names the question and the numbers.
    """
    limit = configured_context(config.model)
    if limit is None:
        return
    prompts = config.prompts
    for question in questions:
        new = (
            max(config.rollouts.max_new_tokens, config.training.max_new_tokens)
            if question.split == "train"
            else config.evaluation.max_new_tokens
        )
        order = tuple(range(len(question.choices)))
        messages = student_messages(
            question, choice_order=order, answer_format=prompts.answer_format, system=prompts.system
        )
        check_fits(question, len(encoder.encode(messages)), new, limit)


def stages_of(config: Config) -> tuple[str, ...]:
    """The stages, by command, that a run of these settings needs."""
    made = stages_made(config)
    folders = {"select": "selection", "train": "training"}
    optional = ("rollouts", "neurons", "select", "contexts", "preflight", "train")
    needed = (command for command in optional if folders.get(command, command) in made)
    return ("questions", *needed, "evaluate", "report")


def describe_work(config: Config, folder: RunFolder | None) -> list[str]:
    """What `run` would do: counts of questions, completions and steps, and which stages are finished."""
    questions = check_early(config)
    pool = sum(question.split == "train" for question in questions)
    test = len(questions) - pool
    kept = num_kept(pool, config.selection.fraction)
    steps = num_steps(kept, config.training)
    sampled = pool * config.rollouts.num_rollouts
    work = {
        "questions": f"{pool} in the pool, {test} held out or of other domains",
        "rollouts": f"{sampled} completions of up to {config.rollouts.max_new_tokens} tokens",
        "neurons": f"{pool} forward passes",
        "selection": f"{kept} questions kept",
        "contexts": f"{kept} contexts of up to {config.contexts.num_demonstrations} demonstrations",
        "preflight": f"{min(kept, config.preflight.num_questions)} questions answered with and without their context",
        "training": f"{steps} steps of {config.training.batch_size}",
        "evaluation/base": f"{test * config.evaluation.num_samples} completions",
        "evaluation/trained": f"{test * config.evaluation.num_samples} completions",
    }
    needed = {name for name in work if StageFolder(Path(name), name).command in stages_of(config)}
    finished = {name for name in needed if folder and folder.stage(name).is_finished()}
    return [
        f"{name}: {text}{' (there already)' if name in finished else ''}"
        for name, text in work.items()
        if name in needed
    ]
