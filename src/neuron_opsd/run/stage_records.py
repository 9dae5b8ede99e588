"""The records that earlier stages of a run made, as later stages read them. Nothing here loads a model."""

from collections.abc import Iterator
from functools import cached_property

from neuron_opsd.config import Config
from neuron_opsd.errors import RunFolderError
from neuron_opsd.questions.load import domains_of, test_questions
from neuron_opsd.records import Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.run.inputs import StageInputs
from neuron_opsd.store.run_folder import RunFolder


class StageRecords:
    """Questions, first rollouts, selection and contexts of one run. What is read once stays in memory."""

    def __init__(self, folder: RunFolder, config: Config, inputs: StageInputs) -> None:
        self.folder, self.config, self.inputs = folder, config, inputs

    @cached_property
    def questions(self) -> list[Question]:
        """All questions of the run."""
        return self.folder.stage("questions").read(Question)

    @cached_property
    def pool_by_id(self) -> dict[str, Question]:
        """The pool by id."""
        return {question.question_id: question for question in self.pool}

    @cached_property
    def pool(self) -> list[Question]:
        """The unlabelled questions that training may use."""
        return [question for question in self.questions if question.split == "train"]

    @cached_property
    def test_questions(self) -> list[Question]:
        """The questions that only evaluation asks, in an order that does not depend on the domain trained on."""
        return test_questions(self.questions)

    @property
    def train_domains(self) -> list[str]:
        """The domains of the pool: one, or several with `questions.domain=all`."""
        return domains_of(self.pool)

    @cached_property
    def shown_by_id(self) -> dict[str, Question]:
        """Every question that a demonstration may show, and those of the pool, by id."""
        others = {question.question_id: question for question in self.inputs.other_questions}
        return self.pool_by_id | others

    def first_rollouts(self) -> Iterator[Rollout]:
        """The rollout of each pool question that gives the neuron signal and demonstrates. One at a time."""
        rollouts = self.folder.stage("rollouts").iterate(Rollout)
        return (rollout for rollout in rollouts if rollout.rollout_index == 0)

    def complete_rollouts(self) -> list[Rollout]:
        """The rollouts that each pool question has, wherever its vote stopped: a mean over others would be biased."""
        num_complete = self.config.rollouts.num_complete
        rollouts = self.folder.stage("rollouts").iterate(Rollout)
        return [rollout for rollout in rollouts if rollout.rollout_index < num_complete]

    def training_ids(self) -> list[str]:
        """The questions that training may use: those kept. Of them, those with an own answer where that is shown."""
        if self.config.contexts.retrieval == "own_majority" and "contexts" in self.inputs.made:
            return [context.question_id for context in self.folder.stage("contexts").read(TeacherContext)]
        return self.kept_ids()

    def kept_ids(self) -> list[str]:
        """The selected questions, best first; the pool where nothing is selected."""
        if "selection" not in self.inputs.made:
            return [question.question_id for question in self.pool]
        records = self.folder.stage("selection").read(SelectedQuestion)
        ranked = sorted(records, key=lambda record: (record.domain, record.rank))
        return [record.question_id for record in ranked if record.selected]

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
        if question_id not in self._contexts:
            is_known = question_id in {question.question_id for question in self.questions}
            what = "was not selected for training" if is_known else "is not a question of this run"
            raise RunFolderError(
                f"{question_id!r} {what}. The selected ones are in {self.folder.path / 'contexts' / 'records.jsonl'}."
            )
        return self._contexts[question_id]

    @cached_property
    def _contexts(self) -> dict[str, TeacherContext]:
        contexts = self.folder.stage("contexts").read(TeacherContext)
        return {context.question_id: context for context in contexts}
