"""What both models are asked in evaluation, shard by shard: sampled completions, and the probabilities of options."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.config.graph import ROLES
from neuron_opsd.contexts.prompts import teacher_messages_of
from neuron_opsd.engines.base import sampling_of
from neuron_opsd.evaluation.exact import OneTokenReader, answer_exactly
from neuron_opsd.evaluation.options import OptionReader, score_options
from neuron_opsd.evaluation.truth import score_truth
from neuron_opsd.questions.orders import cyclic_orders
from neuron_opsd.records import ExactGeneralRollout, ExactRollout, OptionScores, Question, Rollout, TruthScore
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.rollouts.sample import MessagesOf, choice_orders
from neuron_opsd.rollouts.stage import SampledStage
from neuron_opsd.rollouts.stopping import next_wave
from neuron_opsd.run.runners import OnProgress
from neuron_opsd.run.session import Run
from neuron_opsd.run.shards import ShardedStage
from neuron_opsd.store.files import JsonDict

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which model is asked which questions: the test questions, or the general ones."""

    role: str  # "base" or "trained"
    is_general: bool

    @property
    def samples(self) -> str:
        """The stage of its completions."""
        return f"evaluation/{'general_' if self.is_general else ''}{self.role}"

    @property
    def options(self) -> str:
        """The stage of its probabilities of options."""
        return f"{self.samples}_options"

    @property
    def truth(self) -> str:
        """The stage of its P(True)."""
        return f"{self.samples}_truth"


_ASKED = [Asked(role, is_general) for role in ROLES for is_general in (False, True)]
# A worker opens a stage by its name.
ASKED_OF = {name: asked for asked in _ASKED for name in (asked.samples, asked.options, asked.truth)}


class AskedStage(ShardedStage):
    """A stage of evaluation: one model, some questions."""

    @property
    def asked(self) -> Asked:
        """What it asks."""
        return ASKED_OF[self.name]

    @property
    def model_name(self) -> str:
        """See `ShardedStage`. Without training, the second model is the base model."""
        is_trained = self.asked.role == "trained" and self.run.config.training.trains
        return str(self.run.folder.model_folder) if is_trained else self.run.config.model.name

    @property
    def asked_questions(self) -> Sequence[Question]:
        """All questions that it samples."""
        return self.run.inputs.general_questions if self.asked.is_general else self.run.records.test_questions

    @property
    def reads_context(self) -> bool:
        """Whether the teacher's context comes before each question."""
        return self.run.config.evaluation.context and self.asked == Asked("trained", is_general=False)

    @cached_property
    def context_messages(self) -> MessagesOf | None:
        """What is read for a question after its context. None for the bare one."""
        if not self.reads_context:
            return None
        return teacher_messages_of(self.run, "evaluation/contexts", self.asked_questions)


def orders_asked(
    question: Question, settings: EvaluationSettings, *, role: str, seed: int, purpose: str
) -> list[tuple[int, ...]]:
    """The orders in which a model is asked a question: all cyclic ones, or those that its samples would see."""
    if settings.order_average and role == "trained":
        return [order.choice_order for order in cyclic_orders(question)]
    return choice_orders(
        question, settings.num_samples, shuffle=settings.shuffle_choices, seed=seed, stage=purpose
    )


class EvaluationSamples(AskedStage, SampledStage):
    """One model's completions. Base and trained draw alike, which narrows their paired difference."""

    @property
    def purpose(self) -> str:
        """See `SampledStage`."""
        return "general" if self.asked.is_general else "evaluation"

    @property
    def settings(self) -> EvaluationSettings:
        """See `SampledStage`."""
        settings = self.run.config.evaluation
        return settings.for_general() if self.asked.is_general else settings

    @property
    def questions(self) -> Sequence[Question]:
        """See `ShardedStage`."""
        return self.asked_questions

    def num_per_question(self) -> int:
        """See `ShardedStage`."""
        return self.settings.num_samples

    def next_wave(self, answers: Sequence[str | None]) -> int:
        """See `SampledStage`. Here an unreadable answer is an answer like any other, and wrong if it wins."""
        return next_wave(answers, total=self.num_per_question(), skip_unparsable=False)

    @cached_property
    def messages_of(self) -> MessagesOf | None:
        """See `SampledStage`."""
        return self.context_messages

    def orders_of(self, question: Question) -> list[tuple[int, ...]]:
        """The orders in which a question is asked."""
        return orders_asked(
            question, self.settings, role=self.asked.role, seed=self.run.config.seed, purpose=self.purpose
        )

    @property
    def has_options(self) -> bool:
        """Whether the probabilities of the choices are asked, too."""
        return self.settings.option_probability and not self.reads_context

    def make_shard(self, index: int, on_progress: OnProgress) -> list[Rollout]:
        """See `ShardedStage`. The choices are scored from the prompts that are read here, where they are the same."""
        if not self.has_options:
            return super().make_shard(index, on_progress)
        run = self.run
        reader = OptionReader(
            self.shard_questions(index),
            run.models.encoder(),
            run.config.prompts,
            orders_of=self.orders_of,
            limit=run.models.max_context(),
        )
        rollouts = self.sample(index, on_progress, reader)
        if (scores := reader.scores(rollouts)) is not None:
            options = self.asked.options
            # Before the samples themselves, so that a run that is killed has both or makes both again.
            inbox = run.folder.stage(options).inbox(run.inputs.of(options))
            inbox.enter(inbox.write_shard(index, scores, OptionScores))
        return rollouts


class ExactAnswers(EvaluationSamples):
    """One model's answers with their probabilities, by one pass for each question and order of its choices."""

    record_type = ExactRollout

    @cached_property
    def reader(self) -> OneTokenReader:
        """Reads replies of one token."""
        return OneTokenReader(self.run.models.encoder(), self.run.config.prompts)

    def make_shard(self, index: int, on_progress: OnProgress) -> list[Rollout]:
        """See `ShardedStage`."""
        return list(self.answer(index, on_progress))

    def answer(
        self,
        index: int,
        on_progress: OnProgress,
        on_state: Callable[[Question, torch.Tensor], None] | None = None,
    ) -> list[ExactRollout]:
        """Answer the questions of one shard. `on_state` is as for `answer_exactly`."""
        run, settings, questions = self.run, self.settings, self.shard_questions(index)
        return answer_exactly(
            questions,
            run.models.named(self.model_name),
            self.reader,
            sampling=sampling_of(settings),
            orders=[self.orders_of(question) for question in questions],
            messages_of=self.messages_of,
            max_context=run.models.max_context(),
            batch_size=settings.batch_size,
            on_state=on_state,
            on_finished=on_progress,
        )

    def num_items(self, index: int) -> int:
        """See `ShardedStage`."""
        return sum(len(self.orders_of(question)) for question in self.shard_questions(index))

    def read_again(self) -> None:
        """Probabilities were added up by what the reader read, so a newer one needs another pass."""
        return


class ExactGeneralAnswers(ExactAnswers):
    """The same of general questions. The states are kept, so that the KL of both models reads nothing again."""

    record_type = ExactGeneralRollout

    def make_shard(self, index: int, on_progress: OnProgress) -> list[Rollout]:
        """See `ShardedStage`."""
        states: dict[str, tuple[float, ...]] = {}

        def keep(question: Question, state: torch.Tensor) -> None:
            states[question.question_id] = tuple(state.tolist())

        return [
            ExactGeneralRollout(
                **{field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)},
                state=() if answer.rollout_index else states[answer.question_id],
            )
            for answer in self.answer(index, on_progress, keep)
        ]


class ScoringStage(AskedStage):
    """What one model is asked of its own answers to questions: a score for each question."""

    unit = "questions"
    score: ClassVar[Callable[..., list[Any]]]
    more: Mapping[str, Any] = MappingProxyType({})  # what else `score` takes

    @property
    def questions(self) -> Sequence[Question]:
        """See `ShardedStage`. Those without a score have no record, so that shards are those of the samples."""
        return self.asked_questions

    @cached_property
    def rollouts(self) -> Mapping[str, Sequence[Rollout]]:
        """The same model's answers, by question."""
        record_type = ExactRollout if self.run.config.evaluation.exact else Rollout
        return group_by_question(self.run.folder.stage(self.asked.samples).read(record_type))

    def make_shard(self, index: int, on_progress: OnProgress) -> list[Any]:
        """See `ShardedStage`."""
        run, questions = self.run, self.shard_questions(index)
        scores = self.score(
            questions,
            self.rollouts,
            run.models.named(self.model_name),
            run.models.encoder(),
            prompts=run.config.prompts,
            batch_size=run.config.evaluation.batch_size,
            **self.more,
        )
        on_progress(len(questions), 0)
        return scores

    def summary(self) -> JsonDict:
        """See `ShardedStage`."""
        left_out = len(self.asked_questions) - self.folder.num_records()
        if left_out:
            logger.info("%s: %d questions are not scored", self.name, left_out)
        return {"num_not_scored": left_out}


class OptionStage(ScoringStage):
    """The probability that one model gives to each choice of the questions it was asked, in the orders it has seen.

    `EvaluationSamples` leaves a shard in the inbox with each of its own, where it can. The others are made here.
    """

    record_type = OptionScores
    score = staticmethod(score_options)


class TruthStage(ScoringStage):
    """How likely one model calls its own majority answers right, after the context that it answered with."""

    record_type = TruthScore
    score = staticmethod(score_truth)

    @cached_property
    def more(self) -> Mapping[str, Any]:
        """See `ScoringStage`."""
        return {"messages_of": self.context_messages}


def stages_of_evaluation(run: Run) -> Iterator[AskedStage]:
    """What both models are asked, one model after the other."""
    settings, is_trained = run.config.evaluation, run.config.training.trains
    has_general = is_trained and bool(run.inputs.general_questions)
    for role in ROLES if is_trained or settings.has_second_reading else ("base",):
        for is_general in (False, True) if has_general else (False,):
            asked = Asked(role, is_general)
            exactly = ExactGeneralAnswers if is_general else ExactAnswers
            samples = (exactly if settings.exact else EvaluationSamples)(run, asked.samples)
            yield samples
            if samples.has_options and not settings.exact:
                yield OptionStage(run, asked.options)
            if settings.p_true:
                yield TruthStage(run, asked.truth)
