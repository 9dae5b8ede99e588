"""Stage: each question's first rollout -> `NeuronSets`: the neurons behind it, made shard by shard."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from neuron_opsd.model.skeleton import build_skeleton
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.neurons.sets import resolve_sizes
from neuron_opsd.records import NeuronSets, Question, Rollout
from neuron_opsd.run.runners import OnProgress
from neuron_opsd.run.session import Run
from neuron_opsd.run.shards import ShardedStage, make_sharded
from neuron_opsd.statistics import pearson
from neuron_opsd.store.files import JsonDict

logger = logging.getLogger(__name__)


class NeuronStage(ShardedStage):
    """The neurons behind each question's first rollout. Its shards are those of the rollouts, question for question."""

    record_type = NeuronSets
    is_readable = False

    @property
    def questions(self) -> Sequence[Question]:
        """See `ShardedStage`."""
        return self.run.records.pool

    def make_shard(self, index: int, on_progress: OnProgress) -> list[NeuronSets]:
        """See `ShardedStage`."""
        model, tokenizer = self.run.models.base()
        rollouts = self.run.folder.stage("rollouts").read_shard(index, Rollout)
        first = [rollout for rollout in rollouts if rollout.rollout_index == 0]
        settings = self.run.config.neurons
        return list(capture_neurons(model, tokenizer, first, settings, on_read=on_progress))

    def summary(self) -> JsonDict:
        """See `ShardedStage`."""
        sizes = resolve_sizes(build_skeleton(self.run.config.model), self.run.config.neurons)
        logger.info(
            "neurons: top %d (token, neuron) entries a chunk and layer, overlap sets of %d, of %d layers x %d neurons",
            sizes.num_entries, sizes.overlap_size, sizes.num_layers, sizes.d_ff,
        )  # fmt: skip
        return {**dataclasses.asdict(sizes), **_length_correlation(self.folder.read(NeuronSets))}


def make_neurons(run: Run) -> None:
    """The neurons behind each question's first rollout."""
    make_sharded(NeuronStage(run, "neurons"))


def _length_correlation(sets: list[NeuronSets]) -> dict[str, float | None]:
    """Pearson r of s(x) with completion length, said aloud: a selection by raw s can be one by length."""
    scores = [float(item.consensus_score) for item in sets]
    lengths = [float(item.num_completion_tokens) for item in sets]
    if len(sets) < 3 or len(set(scores)) < 2 or len(set(lengths)) < 2:
        return {"correlation_with_length": None}
    r = pearson(np.array(scores), np.array(lengths))
    logger.info("neurons: correlation of s(x) with length r = %.2f [%.2f, %.2f]", r.value, r.low, r.high)
    return {"correlation_with_length": r.value}
