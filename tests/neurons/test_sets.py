"""Count set and overlap set: by hand, against loops, with ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_opsd.config import ModelSettings, NeuronSettings
from neuron_opsd.model.ffn import FeedForward
from neuron_opsd.model.skeleton import build_skeleton
from neuron_opsd.neurons import sets
from neuron_opsd.neurons.sets import (
    NO_ENTRY,
    NeuronSetBuilder,
    NeuronSizes,
    keep_largest,
    merge_top_entries,
    merge_top_per_token,
    resolve_sizes,
)
from neurons.naive import naive_sets
from neurons.tiny_models import FAMILIES, build


def test_both_sets_by_hand():
    # One layer, four neurons, 2 entries a chunk, K = 2.
    first = torch.tensor([[5.0, 1.0, 0.0, -1.0], [4.0, 3.0, 0.0, 0.0]])  # entries 5 and 4: neuron 0 alone
    second = torch.tensor([[0.0, 1.0, 2.0, -3.0]])  # entries 2 and 1: neurons 2 and 1
    builder = NeuronSetBuilder(NeuronSizes(1, 4, 2, 2), "union")
    for chunk in (first, second):
        builder.add_chunk(merge_top_entries(chunk, 2)[None])
    assert merge_top_entries(first, 2).tolist() == [5.0, NO_ENTRY, NO_ENTRY, NO_ENTRY]
    assert builder.neurons_per_layer() == (3,)  # 0, 1, 2: not cut to K
    assert builder.mean_chunk_count() == 1.5  # 1 and 2
    assert builder.overlap_set().tolist() == [0, 2]  # the best are 5, 1, 2
    assert builder.num_chunks == 2


def test_the_overlap_set_leaves_out_what_speaks_against_the_token():
    best = torch.tensor([[-1.0, 2.0, 0.0], [NO_ENTRY, -3.0, 1.0]])
    builder = NeuronSetBuilder(NeuronSizes(2, 3, 3, 6), "union")
    builder.add_chunk(best)
    assert builder.neurons_per_layer() == (3, 2)  # the count set does not ask for the sign
    assert builder.overlap_set().tolist() == [1, 5]
    assert builder.overlap_set().dtype == np.int32


def test_union_of_top_counts_each_chunks_own_best():
    builder = NeuronSetBuilder(NeuronSizes(1, 4, 4, 1), "union_of_top")
    builder.add_chunk(torch.tensor([[5.0, 4.0, 3.0, 2.0]]))
    builder.add_chunk(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert builder.neurons_per_layer() == (2,)  # 0 of the first, 3 of the second
    assert builder.mean_chunk_count() == 1.0
    assert builder.overlap_set().tolist() == [0]


def test_no_chunk_is_an_empty_set():
    builder = NeuronSetBuilder(NeuronSizes(2, 3, 3, 6), "union")
    assert (builder.neurons_per_layer(), builder.mean_chunk_count(), builder.num_chunks) == ((0, 0), 0.0, 0)
    assert len(builder.overlap_set()) == 0
    assert builder.is_finite()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_noticed(value):
    builder = NeuronSetBuilder(NeuronSizes(1, 3, 3, 6), "union")
    builder.add_chunk(torch.tensor([[1.0, value, NO_ENTRY]]))
    assert not builder.is_finite()


def test_ties_keep_the_lower_index():
    assert keep_largest(torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0]), 3).tolist() == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert keep_largest(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), 1).tolist() == [[True, False], [False, True]]
    assert keep_largest(torch.tensor([1.0]), 5).tolist() == [True]


def test_ties_at_the_threshold_keep_the_lower_neuron_first_and_count_entries_not_neurons():
    # Three entries: 9 of neuron 2, then two of the four ties at 1. Neuron 0 has both of them.
    scores = torch.tensor([[1.0, 1.0, 9.0], [1.0, 0.0, 1.0]])
    assert merge_top_entries(scores, 3).tolist() == [1.0, NO_ENTRY, 9.0]
    assert merge_top_entries(scores, 4).tolist() == [1.0, 1.0, 9.0]


def test_entries_per_token():
    scores = torch.tensor([[1.0, 5.0, 2.0], [7.0, 3.0, 3.0]])
    assert merge_top_per_token(scores, 1).tolist() == [7.0, 5.0, NO_ENTRY]
    # Neuron 0's 1.0 is no entry of the first token; neuron 1 wins the second token's tie.
    assert merge_top_per_token(scores, 2).tolist() == [7.0, 5.0, 2.0]


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    tokens=st.integers(1, 70),
    neurons=st.integers(1, 9),
    levels=st.sampled_from([2, 5, 10_000]),
)
def test_merging_equals_sorting_all_entries(data, tokens, neurons, levels):
    """Few levels make nearly everything a tie; the block size changes nothing."""
    seed = data.draw(st.integers(0, 1_000))
    num_entries = data.draw(st.integers(1, tokens * neurons + 2))
    values = np.random.default_rng(seed).integers(-levels, levels, size=(tokens, neurons)).astype(np.float32)
    entries = sorted((-values[t, i], i, t) for t in range(tokens) for i in range(neurons))[:num_entries]
    expected = np.full(neurons, NO_ENTRY, dtype=np.float32)
    for negative, neuron, _ in entries:
        expected[neuron] = max(expected[neuron], -negative)
    assert merge_top_entries(torch.tensor(values), num_entries).tolist() == expected.tolist()


@pytest.mark.parametrize("count_set", ["union", "union_of_top"])
@pytest.mark.parametrize("levels", [3, 1_000_000])
@pytest.mark.parametrize("per_token", [None, 2])
def test_chunks_and_layers_equal_the_loops(count_set, levels, per_token):
    layers, tokens, d_ff, chunk = 3, 50, 12, 16
    scores = (
        np.random.default_rng(0).integers(-levels, levels, size=(layers, tokens, d_ff)).astype(np.float32)
    )
    sizes = NeuronSizes(layers, d_ff, num_entries=7, overlap_size=8)
    builder = NeuronSetBuilder(sizes, count_set)
    for start in range(0, tokens, chunk):
        chunks = [torch.tensor(scores[layer, start : start + chunk]) for layer in range(layers)]
        builder.add_chunk(
            torch.stack(
                [merge_top_per_token(c, per_token) if per_token else merge_top_entries(c, 7) for c in chunks]
            )
        )
    counted, overlap, chunk_sizes = naive_sets(
        {
            (layer, i, t): scores[layer, t, i]
            for layer in range(layers)
            for t in range(tokens)
            for i in range(d_ff)
        },
        d_ff=d_ff,
        num_tokens=tokens,
        chunk_tokens=chunk,
        num_entries=7,
        overlap_size=8,
        count_set=count_set,
        per_token=per_token,
    )
    assert sum(builder.neurons_per_layer()) == len(counted)
    assert builder.overlap_set().tolist() == overlap
    assert builder.mean_chunk_count() == pytest.approx(np.mean(chunk_sizes))


def test_the_threshold_search_is_not_the_slow_way(monkeypatch):
    monkeypatch.setattr(sets, "_merge_with_ties", lambda *_: pytest.fail("no tie here"))
    torch.manual_seed(0)
    merge_top_entries(torch.randn(512, 300), 60)


def test_sizes_scale_to_the_model_and_absolute_numbers_win():
    qwen3_4b = [FeedForward(layer, 9_728, torch.nn.Identity(), None) for layer in range(36)]
    assert resolve_sizes(qwen3_4b, NeuronSettings()) == NeuronSizes(36, 9_728, 2_004, 5_008)
    smollm2 = [FeedForward(layer, 1_536, torch.nn.Identity(), None) for layer in range(30)]
    assert resolve_sizes(smollm2, NeuronSettings()) == NeuronSizes(30, 1_536, 316, 659)
    absolute = NeuronSettings(num_entries=2_000, overlap_size=5_000)
    assert resolve_sizes(smollm2, absolute) == NeuronSizes(30, 1_536, 2_000, 5_000)
    assert resolve_sizes(build("llama"), NeuronSettings()) == NeuronSizes(2, 40, 8, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_skeleton_gives_the_same_sizes(family, tmp_path):
    model = build(family)
    model.config.save_pretrained(tmp_path)
    skeleton = build_skeleton(ModelSettings(name=str(tmp_path)))
    assert resolve_sizes(skeleton, NeuronSettings()) == resolve_sizes(model, NeuronSettings())
