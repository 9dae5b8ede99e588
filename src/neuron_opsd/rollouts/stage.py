"""Stage: questions -> `Rollout`: completions, made shard by shard. Evaluation asks both models by the same code."""

import abc
import logging
from collections.abc import Sequence
from functools import cached_property

from neuron_opsd.config import EvaluationSettings, RolloutSettings
from neuron_opsd.engines.base import sampling_of
from neuron_opsd.engines.hf import OnRead
from neuron_opsd.records import Question, Rollout
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.rollouts.sample import MessagesOf, read_again, sample_rollouts
from neuron_opsd.rollouts.stopping import next_wave
from neuron_opsd.run.runners import OnProgress
from neuron_opsd.run.session import Run
from neuron_opsd.run.shards import ShardedStage, make_sharded
from neuron_opsd.store.files import JsonDict
from neuron_opsd.store.shard_inbox import shard_index
from neuron_opsd.store.stage_folder import same_inputs, without_reader

logger = logging.getLogger(__name__)


class SampledStage(ShardedStage):
    """Completions of some questions by one model."""

    record_type = Rollout

    @property
    @abc.abstractmethod
    def purpose(self) -> str:
        """Part of the random state. Stages of one purpose draw alike."""

    @property
    @abc.abstractmethod
    def settings(self) -> RolloutSettings | EvaluationSettings:
        """The section of the configuration that says how to sample."""

    @cached_property
    def messages_of(self) -> MessagesOf | None:
        """What is read for a question. None for the bare one."""
        return None

    def make_shard(self, index: int, on_progress: OnProgress) -> list[Rollout]:
        """See `ShardedStage`."""
        return self.sample(index, on_progress)

    def sample(self, index: int, on_progress: OnProgress, on_read: OnRead | None = None) -> list[Rollout]:
        """The completions of one shard. `on_read` is called with the prompts that are read here."""
        run, settings = self.run, self.settings
        engine = run.models.engine(self.model_name, batch_size=settings.batch_size, on_read=on_read)
        return sample_rollouts(
            self.shard_questions(index),
            engine,
            run.models.encoder(),
            prompts=run.config.prompts,
            sampling=sampling_of(settings),
            num_rollouts=self.num_per_question(),
            shuffle_choices=settings.shuffle_choices,
            seed=run.config.seed,
            stage=self.purpose,
            messages_of=self.messages_of,
            max_context=run.models.max_context(),
            next_wave=self.next_wave if settings.stop_votes else None,
            on_finished=on_progress,
        )

    def next_wave(self, answers: Sequence[str | None]) -> int:
        """How many completions a question gets next. An unreadable answer is never a pseudo-label."""
        return next_wave(answers, total=self.num_per_question(), skip_unparsable=True)

    def read_again(self) -> None:
        """See `ShardedStage`. Replies stay as they were sampled. A shard that is damaged is sampled again.

        So is one in which a vote that had stopped is open again by what its replies are read as now.
        """
        before = self.folder.manifest()
        if (
            before is None
            or same_inputs(before["inputs"], self.inputs)
            or not same_inputs(without_reader(before["inputs"]), without_reader(self.inputs))
        ):
            return
        questions = {question.question_id: question for question in self.questions}
        inbox, wrong = self.folder.inbox(self.inputs), self.folder.wrong_files()
        num_read, num_changed, num_open = 0, 0, 0
        for index in (shard_index(shard) for shard in before["shards"] if shard["file"] not in wrong):
            stored = self.folder.read_shard(index, Rollout)
            again = [read_again(r, questions[r.question_id], self.run.config.prompts) for r in stored]
            kept = self._drawn_of(again) if self.settings.stop_votes else again
            if kept is None:
                num_open += 1
                continue
            inbox.enter(inbox.write_shard(index, kept, Rollout))
            num_read += len(stored)
            num_changed += sum(old.answer != new.answer for old, new in zip(stored, again, strict=True))
        logger.info(
            "%s: %d stored replies read again without sampling. %d answers changed",
            self.name, num_read, num_changed,
        )  # fmt: skip
        if num_open:
            logger.info("%s: %d shards are sampled again: stopped votes are open again", self.name, num_open)

    def _drawn_of(self, rollouts: Sequence[Rollout]) -> list[Rollout] | None:
        """The rollouts that would have been drawn had their answers been these. None where some were not drawn."""
        drawn: list[Rollout] = []
        for group in group_by_question(rollouts).values():
            count = 0
            while more := self.next_wave([rollout.answer for rollout in group[:count]]):
                count += more
                if count > len(group):
                    return None
            drawn += group[:count]
        return drawn

    def summary(self) -> JsonDict:
        """See `ShardedStage`."""
        rollouts = self.folder.read(Rollout)
        total = max(len(rollouts), 1)
        tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
        return {
            "num_completions": len(rollouts),
            **(
                {"num_not_drawn": len(self.questions) * self.num_per_question() - len(rollouts)}
                if self.settings.stop_votes
                else {}
            ),
            "num_completion_tokens": tokens,
            "parse_rate": sum(rollout.answer is not None for rollout in rollouts) / total,
            "truncated_fraction": sum(rollout.finish_reason == "length" for rollout in rollouts) / total,
            "completion_tokens_mean": tokens / total,
            "engine": self.run.models.engine_identity(self.model_name),
        }


class ZeroShotStage(SampledStage):
    """The frozen model's answers to the pool (`rollouts`), or to another domain's questions (`demonstrations`)."""

    @property
    def purpose(self) -> str:
        """See `SampledStage`."""
        return "rollouts"

    @property
    def settings(self) -> RolloutSettings:
        """See `SampledStage`."""
        return self.run.config.rollouts

    @property
    def questions(self) -> Sequence[Question]:
        """See `ShardedStage`."""
        return self.run.inputs.other_questions if self.name == "demonstrations" else self.run.records.pool

    def num_per_question(self) -> int:
        """See `ShardedStage`."""
        return 1 if self.name == "demonstrations" else self.settings.num_rollouts


def make_rollouts(run: Run) -> None:
    """Zero-shot answers of the frozen model to every question of the pool."""
    make_sharded(ZeroShotStage(run, "rollouts"))
