"""What is made shard by shard: sampled completions, neurons, and the probabilities of options."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from neuron_opsd.config import EvaluationSettings, RolloutSettings
from neuron_opsd.config.graph import ROLES
from neuron_opsd.engines.base import sampling_of
from neuron_opsd.evaluation.options import score_options
from neuron_opsd.model.skeleton import build_skeleton
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.neurons.sets import resolve_sizes
from neuron_opsd.records import NeuronSets, OptionScores, Question, Rollout
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.rollouts.sample import MessagesOf, read_again, sample_rollouts
from neuron_opsd.run.runners import OnProgress
from neuron_opsd.run.session import Workbench
from neuron_opsd.run.shards import ShardedStage
from neuron_opsd.statistics import pearson
from neuron_opsd.store.files import JsonDict
from neuron_opsd.store.shard_inbox import shard_index
from neuron_opsd.store.stage_folder import StageFolder, without_reader

logger = logging.getLogger(__name__)


class SampledStage(ShardedStage):
    """Completions of any questions by the base or the trained model."""

    record_type = Rollout

    @property
    def purpose(self) -> str:
        """Part of the random state. Base and trained draw alike, which narrows their paired difference."""
        if self.name in ("rollouts", "demonstrations"):
            return "rollouts"
        return "general" if self.is_general else "evaluation"

    @property
    def settings(self) -> RolloutSettings | EvaluationSettings:
        """The section of the configuration that says how to sample."""
        config = self.bench.config
        if self.purpose == "rollouts":
            return config.rollouts
        return config.evaluation.for_general() if self.is_general else config.evaluation

    @cached_property
    def questions(self) -> Sequence[Question]:
        """See `ShardedStage`."""
        if self.is_general:
            return self.bench.inputs.general_questions
        if self.name == "demonstrations":
            return self.bench.other_questions
        return self.bench.pool if self.purpose == "rollouts" else self.bench.test_questions

    def num_per_question(self) -> int:
        """See `ShardedStage`."""
        settings = self.settings
        if isinstance(settings, EvaluationSettings):
            return settings.num_samples
        return 1 if self.name == "demonstrations" else settings.num_rollouts

    @cached_property
    def messages_of(self) -> MessagesOf | None:
        """What is read for a question; None for the bare one."""
        if not self.reads_context:
            return None
        return self.bench.teacher_messages_of("evaluation/contexts", self.questions)

    def make_shard(self, index: int, on_progress: OnProgress) -> list[Rollout]:
        """See `ShardedStage`."""
        bench, settings = self.bench, self.settings
        engine = bench.engine(self.model_name, batch_size=settings.batch_size)
        return sample_rollouts(
            self.shard_questions(index),
            engine,
            bench.encoder(),
            prompts=bench.config.prompts,
            sampling=sampling_of(settings),
            num_rollouts=self.num_per_question(),
            shuffle_choices=settings.shuffle_choices,
            seed=bench.config.seed,
            stage=self.purpose,
            messages_of=self.messages_of,
            max_context=bench.max_context(),
            on_finished=on_progress,
        )

    def read_again(self) -> None:
        """See `ShardedStage`. Replies stay as they were sampled; a shard that is damaged is sampled again."""
        before = self.folder.manifest()
        if (
            before is None
            or before["inputs"] == self.inputs
            or without_reader(before["inputs"]) != without_reader(self.inputs)
        ):
            return
        questions = {question.question_id: question for question in self.questions}
        inbox, wrong = self.folder.inbox(self.inputs), self.folder.wrong_files()
        num_read, num_changed = 0, 0
        for index in (shard_index(shard) for shard in before["shards"] if shard["file"] not in wrong):
            stored = self.folder.read_shard(index, Rollout)
            again = [read_again(r, questions[r.question_id], self.bench.config.prompts) for r in stored]
            inbox.enter(inbox.write_shard(index, again, Rollout))
            num_read += len(stored)
            num_changed += sum(old.answer != new.answer for old, new in zip(stored, again, strict=True))
        logger.info(
            "%s: %d stored replies read again without sampling. %d answers changed",
            self.name, num_read, num_changed,
        )  # fmt: skip

    def summary(self) -> JsonDict:
        """See `ShardedStage`."""
        rollouts = self.folder.read(Rollout)
        total = max(len(rollouts), 1)
        tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
        return {
            "num_completions": len(rollouts),
            "num_completion_tokens": tokens,
            "parse_rate": sum(rollout.answer is not None for rollout in rollouts) / total,
            "truncated_fraction": sum(rollout.finish_reason == "length" for rollout in rollouts) / total,
            "completion_tokens_mean": tokens / total,
            "engine": self.bench.engine_identity(self.model_name),
        }


class NeuronStage(ShardedStage):
    """The neurons behind each question's first rollout. Its shards are those of the rollouts, question for question."""

    record_type = NeuronSets
    is_readable = False

    @cached_property
    def questions(self) -> Sequence[Question]:
        """See `ShardedStage`."""
        return self.bench.pool

    def make_shard(self, index: int, on_progress: OnProgress) -> list[NeuronSets]:
        """See `ShardedStage`."""
        model, tokenizer = self.bench.base_model()
        rollouts = self.bench.folder.stage("rollouts").read_shard(index, Rollout)
        first = [rollout for rollout in rollouts if rollout.rollout_index == 0]
        settings = self.bench.config.neurons
        return list(capture_neurons(model, tokenizer, first, settings, on_read=on_progress))

    def summary(self) -> JsonDict:
        """See `ShardedStage`."""
        sizes = resolve_sizes(build_skeleton(self.bench.config.model), self.bench.config.neurons)
        logger.info(
            "neurons: top %d (token, neuron) entries a chunk and layer, overlap sets of %d, of %d layers x %d neurons",
            sizes.num_entries, sizes.overlap_size, sizes.num_layers, sizes.d_ff,
        )  # fmt: skip
        return {**dataclasses.asdict(sizes), **_length_correlation(self.folder.read(NeuronSets))}


class OptionStage(ShardedStage):
    """The probability that one model gives to each choice of the questions it was asked, in the orders it has seen."""

    record_type = OptionScores
    unit = "questions"

    @property
    def asked(self) -> Sequence[Question]:
        """All questions that have samples."""
        return self.bench.inputs.general_questions if self.is_general else self.bench.test_questions

    @cached_property
    def questions(self) -> Sequence[Question]:
        """See `ShardedStage`."""
        return [question for question in self.asked if question.choices]

    @property
    def samples(self) -> StageFolder:
        """The same model's completions."""
        return self.bench.folder.stage(self.name.removesuffix("_options"))

    @cached_property
    def rollouts(self) -> Mapping[str, Sequence[Rollout]]:
        """These by question."""
        return group_by_question(self.samples.read(Rollout))

    def make_shard(self, index: int, on_progress: OnProgress) -> list[OptionScores]:
        """See `ShardedStage`."""
        bench, questions = self.bench, self.shard_questions(index)
        scores = score_options(
            questions,
            self.rollouts,
            bench.model(self.model_name),
            bench.encoder(),
            prompts=bench.config.prompts,
            batch_size=bench.config.evaluation.batch_size,
        )
        on_progress(len(questions), 0)
        return scores

    def summary(self) -> JsonDict:
        """See `ShardedStage`."""
        left_out = len(self.asked) - self.folder.num_records()
        if left_out:
            logger.info("%s: %d questions have no options that can be scored", self.name, left_out)
        return {"num_not_scored": left_out}


def evaluation_stages(bench: Workbench) -> Iterator[ShardedStage]:
    """What both models are asked, one model after the other."""
    settings, is_trained = bench.config.evaluation, bench.config.training.objective != "none"
    has_general = is_trained and bool(bench.inputs.general_questions)
    for role in ROLES if is_trained or settings.context else ("base",):
        for asked in (role, f"general_{role}") if has_general else (role,):
            samples = SampledStage(bench, f"evaluation/{asked}")
            yield samples
            if settings.option_probability and not samples.reads_context:
                yield OptionStage(bench, f"evaluation/{asked}_options")


def _length_correlation(sets: list[NeuronSets]) -> dict[str, float | None]:
    """Pearson r of s(x) with completion length, said aloud: a selection by raw s can be one by length."""
    scores = [float(item.consensus_score) for item in sets]
    lengths = [float(item.num_completion_tokens) for item in sets]
    if len(sets) < 3 or len(set(scores)) < 2 or len(set(lengths)) < 2:
        return {"correlation_with_length": None}
    r = pearson(np.array(scores), np.array(lengths))
    logger.info("neurons: correlation of s(x) with length r = %.2f [%.2f, %.2f]", r.value, r.low, r.high)
    return {"correlation_with_length": r.value}
