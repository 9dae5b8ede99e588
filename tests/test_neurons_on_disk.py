"""Neuron sets on disk: small, the same when read back, readable while more are written."""

import numpy as np
import pyarrow.parquet as pq

from neuron_opsd.records import NeuronSets
from neuron_opsd.store.stage_folder import StageFolder

LAYERS, D_FF, SIZE = 36, 9_728, 5_000  # Qwen3-4B's
MAX_BYTES = 40_000


def sets_of(count, *, seed=0):
    """Uniform ids, which compress worst: real ones repeat from question to question."""
    random = np.random.default_rng(seed)
    return [
        NeuronSets(
            question_id=f"question-{seed}-{number}",
            rollout_index=0,
            num_completion_tokens=900 + number,
            num_chunks=2,
            consensus_score=72_000 + number,
            consensus_score_per_chunk=71_000.5,
            neurons_per_layer=tuple(random.integers(1_000, 3_000, size=LAYERS).tolist()),
            overlap_set=np.sort(random.choice(LAYERS * D_FF, size=SIZE, replace=False)).astype(np.int32),
        )
        for number in range(count)
    ]


def assert_equal(left, right):
    assert [one.question_id for one in left] == [one.question_id for one in right]
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.overlap_set, other.overlap_set)
        assert one.overlap_set.dtype == other.overlap_set.dtype == np.int32
        assert one.neurons_per_layer == other.neurons_per_layer


def test_a_completion_takes_few_bytes_and_comes_back(tmp_path):
    stage, sets = StageFolder(tmp_path / "neurons", "neurons"), sets_of(64)
    stage.begin({})
    stage.add_shard(sets, NeuronSets)
    size = (tmp_path / "neurons" / "part-00000.parquet").stat().st_size / len(sets)
    assert size < MAX_BYTES
    assert size < 8_000  # measured: 5.6 kB; 16.7 kB without storing differences
    assert_equal(stage.read(NeuronSets), sets)


def test_finished_shards_are_readable_while_more_are_written(tmp_path):
    stage, first, second = StageFolder(tmp_path / "neurons", "neurons"), sets_of(3), sets_of(2, seed=1)
    stage.begin({})
    stage.add_shard(first, NeuronSets)
    assert_equal(stage.read(NeuronSets), first)
    assert pq.read_table(tmp_path / "neurons" / "part-00000.parquet").num_rows == 3  # by anybody's reader
    stage.add_shard(second, NeuronSets, 1)
    assert_equal(stage.read(NeuronSets), [*first, *second])


def test_empty_sets_are_kept(tmp_path):
    stage = StageFolder(tmp_path / "neurons", "neurons")
    stage.begin({})
    (one,) = sets_of(1)
    empty = NeuronSets(
        **{name: getattr(one, name) for name in one.__slots__ if name != "overlap_set"},
        overlap_set=np.array([], dtype=np.int32),
    )
    stage.add_shard([empty, one], NeuronSets)
    assert_equal(stage.read(NeuronSets), [empty, one])
