"""What the stages of a run find: its settings, and the records that earlier stages made."""

import logging
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import ContextSettings
from neuron_opsd.errors import DataError, ModelError, RunFolderError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.defaults import resolve
from neuron_opsd.model.load import load_tokenizer
from neuron_opsd.questions.load import single_domain, test_questions
from neuron_opsd.records import Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.run.inputs import StageInputs
from neuron_opsd.store.run_folder import RunFolder

logger = logging.getLogger(__name__)


class RunMaterials:
    """The settings of a run and the records of its stages, as later stages read them; nothing here loads a model."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.config = resolve(folder.config())
        self.inputs = StageInputs(self.config, folder)
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
        rollouts = self.folder.stage("rollouts").iterate(Rollout)
        return {rollout.question_id: rollout for rollout in rollouts if rollout.rollout_index == 0}

    def unusable_ids(self) -> frozenset[str]:
        """The pool questions whose first rollout was cut or gives no readable answer."""
        return frozenset(i for i, rollout in self.first_rollouts().items() if not rollout.is_usable)

    def training_ids(self) -> list[str]:
        """The questions that training may use: those kept; of them, those with an own answer where that is shown."""
        if self.config.contexts.retrieval == "own_majority" and "contexts" in self.inputs.made:
            return [context.question_id for context in self.folder.stage("contexts").read(TeacherContext)]
        return self.kept_ids()

    def kept_ids(self) -> list[str]:
        """The selected questions, or the pool where nothing is selected."""
        if "selection" in self.inputs.made:
            return self.selected_ids()
        return [question.question_id for question in self.pool]

    def selected_ids(self) -> list[str]:
        """The questions that training keeps, best first."""
        records = self.folder.stage("selection").read(SelectedQuestion)
        return [
            record.question_id
            for record in sorted(records, key=lambda r: (r.domain, r.rank))
            if record.selected
        ]

    def context_settings(self) -> ContextSettings:
        """`contexts.*`, its token budget lowered where prompt and completion would not fit the model's context."""
        return self.inputs.context_settings

    def context(self, question_id: str) -> TeacherContext:
        """The teacher context of one selected question.

        Raises:
            RunFolderError: the question was not selected, or does not exist.
        """
        if self.config.contexts.retrieval == "own_group":
            raise RunFolderError(
                "contexts.retrieval is own_group: what the teacher reads is sampled at each step of training, and kept "
                "nowhere. The first of it is in the log of `neuron-opsd train`."
            )
        if not self._contexts:
            contexts = self.folder.stage("contexts").read(TeacherContext)
            self._contexts = {context.question_id: context for context in contexts}
        if question_id not in self._contexts:
            known = {question.question_id for question in self.questions}
            what = (
                "was not selected for training" if question_id in known else "is not a question of this run"
            )
            raise RunFolderError(
                f"{question_id!r} {what}. The selected ones are in {self.folder.path / 'contexts' / 'records.jsonl'}."
            )
        return self._contexts[question_id]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer; where that model is gone, the one published with the trained model."""
        try:
            return load_tokenizer(self.config.model)
        except ModelError as error:
            published = self.folder.model_folder
            if not (published / "tokenizer_config.json").is_file():
                raise
            logger.warning("model: using the trained model's tokenizer, because: %s", error)
            own = self.config.model.model_copy(update={"chat_template": None})
            return load_tokenizer(own, name=str(published))

    def encoder(self, *, teacher: bool = False) -> ChatEncoder:
        """The one door from messages to token ids; the teacher's prompt may have template arguments of its own."""
        return ChatEncoder.of(self.config.model, self.tokenizer, teacher=teacher)
