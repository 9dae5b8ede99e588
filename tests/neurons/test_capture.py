"""Capture against raw weights and nnsight; batches, padding, order, cache, chunk borders change nothing."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from neuron_opsd.config import NeuronSettings
from neuron_opsd.errors import DataError, ModelError
from neuron_opsd.model.ffn import find_ffns, hook_neurons
from neuron_opsd.model.unembedding import backbone
from neuron_opsd.neurons import capture
from neuron_opsd.neurons.capture import answer_start, capture_neurons
from neurons.naive import naive_llama_neurons, naive_scores, naive_sets
from neurons.tiny_models import FAMILIES, HIDDEN, LAYERS, VOCAB, WIDTH, build, random_rollouts, rollout

LENGTHS = [0, 1, 5, 33, 40, 12, 7, 16, 8]
SMALL = NeuronSettings(chunk_tokens=8, num_entries=15, overlap_size=20)


def letter_tokenizer(*, has_marker):
    """Ids 0-7 spell </think>; id 60 is the whole marker if `has_marker`."""
    words = [*"</think>", *(f"w{number}" for number in range(8, 60)), "</think>" if has_marker else "w60"]
    model = WordLevel({word: number for number, word in enumerate(words)}, unk_token="<")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))


def captured(model, rollouts, settings=SMALL, **changes):
    settings = settings.model_copy(update=changes)
    return list(capture_neurons(model, letter_tokenizer(has_marker=False), rollouts, settings))


def assert_same(records, others):
    assert len(records) == len(others)
    for record, other in zip(records, others, strict=True):
        for field in dataclasses.fields(record):
            left, right = getattr(record, field.name), getattr(other, field.name)
            assert np.array_equal(left, right), (record.question_id, field.name, left, right)


def expected_sets(model, one, settings, neurons, states=None):
    """The sets by the loops of naive.py, from neurons (layers, positions, d_ff)."""
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    start = len(one.prompt_ids) - (settings.alignment == "predicting")
    tokens = one.completion_ids[: settings.first_tokens if settings.tokens == "first" else None]
    scores = naive_scores(
        neurons,
        [weights[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in range(LAYERS)],
        weights["lm_head.weight"],
        states if states is not None else range(start, start + len(tokens)),
        tokens,
        magnitude=settings.score == "magnitude",
        scale=weights["model.norm.weight"] if settings.final_norm_scale else None,
    )
    return naive_sets(
        scores,
        d_ff=WIDTH,
        num_tokens=len(tokens),
        chunk_tokens=settings.chunk_tokens,
        num_entries=settings.num_entries,
        overlap_size=settings.overlap_size,
        count_set=settings.count_set,
        per_token=settings.per_token_entries,
    )


OPTIONS = {
    "default": {},
    "gate_up": {"activation": "gate_up"},
    "magnitude": {"score": "magnitude"},
    "final_norm_scale": {"final_norm_scale": True},
    "same": {"alignment": "same"},
    "first": {"tokens": "first", "first_tokens": 11},
    "union_of_top": {"count_set": "union_of_top", "overlap_size": 6},
    "per_token": {"per_token_entries": 3},
    "one_chunk": {"chunk_tokens": 64},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_sets_equal_an_independent_forward_pass_from_raw_weights(option, tied):
    settings = SMALL.model_copy(update=OPTIONS[option])
    model = build("llama", tie_word_embeddings=tied)
    model.model.norm.weight.data.uniform_(0.5, 2.0)
    rollouts = random_rollouts([19, 8, 1])
    for one, record in zip(rollouts, captured(model, rollouts, settings), strict=True):
        gate, gate_up = naive_llama_neurons(model, [*one.prompt_ids, *one.completion_ids])
        neurons = gate_up if settings.activation == "gate_up" else gate
        counted, overlap, chunk_sizes = expected_sets(model, one, settings, neurons)
        assert record.consensus_score == len(counted) == sum(record.neurons_per_layer)
        per_layer = np.bincount(np.array(sorted(counted)) // WIDTH, minlength=LAYERS)
        assert record.neurons_per_layer == tuple(per_layer)
        assert record.overlap_set.tolist() == overlap
        assert record.consensus_score_per_chunk == pytest.approx(np.mean(chunk_sizes))
        assert record.num_chunks == len(chunk_sizes)


def test_nnsight_sees_the_same_neurons():
    nnsight = pytest.importorskip("nnsight")
    model = build("qwen3")
    (one,) = random_rollouts([21])
    ids = torch.tensor([[*one.prompt_ids, *one.completion_ids]])
    traced = nnsight.NNsight(model)
    saved = []
    with torch.no_grad(), traced.trace(input_ids=ids):
        for layer in range(LAYERS):
            saved.append(traced.model.layers[layer].mlp.act_fn.output.save())
    gate = torch.cat(saved).double().numpy()
    (record,) = captured(model, [one])
    counted, overlap, _ = expected_sets(model, one, SMALL, gate)
    assert record.consensus_score == len(counted)
    assert record.overlap_set.tolist() == overlap


@pytest.mark.parametrize("activation", ["gate", "gate_up"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_padding_order_and_cache_change_nothing(family, activation, monkeypatch):
    model = build(family)
    rollouts = random_rollouts(LENGTHS)
    monkeypatch.setattr(capture, "MAX_PIECE_CHUNKS", 100)
    monkeypatch.setattr(capture, "PIECE_TOKENS", 10_000)
    alone = captured(model, rollouts, activation=activation, batch_size=1)  # no padding, one pass each
    assert [record.question_id for record in alone] == [one.question_id for one in rollouts]
    assert_same(captured(model, rollouts[::-1], activation=activation, batch_size=4)[::-1], alone)
    monkeypatch.setattr(capture, "MAX_PIECE_CHUNKS", 1)  # a piece a chunk, over the cache
    assert_same(captured(model, rollouts, activation=activation, batch_size=9), alone)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bloom"])
def test_an_adapter_changes_the_neurons_and_merging_it_does_not(family):
    plain = build(family)
    before = captured(plain, random_rollouts(LENGTHS))
    config = LoraConfig(r=2, target_modules="all-linear", fan_in_fan_out=family == "gpt2")
    model = get_peft_model(plain, config)
    assert_same(captured(model, random_rollouts(LENGTHS)), before)  # B is zero
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    adapted = captured(model, random_rollouts(LENGTHS))
    assert adapted[4].overlap_set.tolist() != before[4].overlap_set.tolist()
    with model.disable_adapter():
        assert_same(captured(model, random_rollouts(LENGTHS)), before)
    assert_same(captured(model.merge_and_unload(), random_rollouts(LENGTHS)), adapted)


def test_a_relu_full_of_exact_ties_is_still_independent_of_batches():
    model = build("opt", activation_function="relu")
    for projection in (layer.fc1 for layer in model.model.decoder.layers):
        projection.bias.data.fill_(-2.0)  # nearly all neurons are off
    rollouts = random_rollouts(LENGTHS)
    assert_same(captured(model, rollouts, batch_size=9), captured(model, rollouts, batch_size=1))


def test_a_soft_cap_or_logit_scale_after_the_unembedding_changes_no_set():
    rollouts = random_rollouts(LENGTHS)
    for family, changes in (
        ("gemma2", {"final_logit_softcapping": 1.0}),
        ("granite", {"logits_scaling": 7.0}),
    ):
        assert_same(captured(build(family, **changes), rollouts), captured(build(family), rollouts))


def test_a_completion_without_tokens_has_an_empty_set():
    records = captured(build("llama"), [rollout([3, 4], []), rollout([5], [])])
    for record in records:
        assert record.consensus_score == record.num_chunks == record.num_completion_tokens == 0
        assert record.consensus_score_per_chunk == 0.0
        assert record.neurons_per_layer == (0,) * LAYERS
        assert record.overlap_set.shape == (0,)
        assert record.overlap_set.dtype == np.int32


def test_no_position_is_dropped_at_either_end():
    """With every entry kept, the first and the last token alone must each change the best scores."""
    model = build("llama")
    settings = {"num_entries": 10**6, "overlap_size": 30}
    full = captured(model, [rollout([3, 4, 5], [6, 7, 8])], **settings)[0]
    for changed in ([9, 7, 8], [6, 7, 9]):
        other = captured(model, [rollout([3, 4, 5], changed)], **settings)[0]
        assert other.overlap_set.tolist() != full.overlap_set.tolist()


@pytest.mark.parametrize("chunk", [1, 7, 8, 9, 16, 17])
def test_chunk_borders(chunk, monkeypatch):
    model = build("llama")
    rollouts = random_rollouts([16, 17, 15, 1])
    records = captured(model, rollouts, chunk_tokens=chunk)
    assert [record.num_chunks for record in records] == [-(-n // chunk) for n in (16, 17, 15, 1)]
    for one, record in zip(rollouts, records, strict=True):
        gate, _ = naive_llama_neurons(model, [*one.prompt_ids, *one.completion_ids])
        counted, overlap, _ = expected_sets(
            model, one, SMALL.model_copy(update={"chunk_tokens": chunk}), gate
        )
        assert (record.consensus_score, record.overlap_set.tolist()) == (len(counted), overlap)


def test_only_the_tokens_after_the_last_end_of_thinking_are_read():
    model = build("llama")
    tokenizer = letter_tokenizer(has_marker=True)
    thinking, answer = [5, 60, 6, 7, 8, 9, 10, 11, 12, 13, 60], [20, 21, 22]
    settings = SMALL.model_copy(update={"tokens": "answer"})
    texts = [rollout([3, 4], thinking + answer), rollout([3, 4], answer), rollout([3], thinking)]
    read = list(capture_neurons(model, tokenizer, texts, settings))
    as_prompt = captured(model, [rollout([3, 4, *thinking], answer), texts[1]])
    for record, expected in zip(read, as_prompt, strict=False):
        assert record.consensus_score == expected.consensus_score
        assert record.overlap_set.tolist() == expected.overlap_set.tolist()
    assert read[0].num_completion_tokens == 14
    assert (read[2].consensus_score, read[2].num_chunks) == (0, 0)  # nothing follows the thinking


def test_of_a_reply_that_was_cut_inside_its_thinking_nothing_is_read():
    settings = SMALL.model_copy(update={"tokens": "answer"})
    cut = dataclasses.replace(rollout([3, 4], [5, 6, 7]), reply="<think>Let me see", finish_reason="length")
    whole = dataclasses.replace(rollout([3, 4], [5, 6, 7]), reply="Let me see")
    found = list(capture_neurons(build("llama"), letter_tokenizer(has_marker=True), [cut, whole], settings))
    assert [record.num_chunks for record in found] == [0, 1]
    assert found[0].consensus_score == 0 < found[1].consensus_score


def test_the_end_of_thinking_may_span_several_tokens():
    spelled = [0, 1, 2, 3, 4, 5, 6, 7]
    tokenizer = letter_tokenizer(has_marker=False)
    assert answer_start(tokenizer, [8, *spelled, 8, *spelled, 9, 9]) == 18
    assert answer_start(tokenizer, [10, 8, 9]) == 0
    assert answer_start(tokenizer, []) == 0
    assert answer_start(letter_tokenizer(has_marker=True), [1, 60, 2, 60, 3]) == 4


def test_a_rollout_without_prompt_is_an_error_that_names_it():
    with pytest.raises(DataError, match="question lost has no prompt"):
        captured(build("llama"), [rollout([], [3], question_id="lost")])


def test_numbers_that_are_not_finite_are_an_error_that_names_the_question():
    model = build("llama")
    model.model.layers[0].mlp.gate_proj.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="question lost are not finite"):
        captured(model, [rollout([3], [4], question_id="lost")])


def test_an_ffn_that_skips_its_activation_module_is_an_error_that_says_what_to_do(monkeypatch):
    model = build("llama")
    for layer in model.model.layers:
        mlp = layer.mlp
        fused = lambda x, mlp=mlp: mlp.down_proj(torch.nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))  # noqa: E731
        monkeypatch.setattr(mlp, "forward", fused)
    with pytest.raises(ModelError, match="activation=gate_up"):
        captured(model, random_rollouts([4]))
    captured(model, random_rollouts([4]), activation="gate_up")


def test_the_model_is_left_as_it_was():
    model = build("llama").train()
    captured(model, random_rollouts(LENGTHS))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    captured(model.eval(), [])
    assert not model.training


def test_dropout_is_off_while_reading():
    model = build("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    rollouts = random_rollouts(LENGTHS)
    assert_same(captured(model.train(), rollouts), captured(model.eval(), rollouts))


def test_rollouts_are_read_lazily_and_records_come_early():
    model, read = build("llama"), []

    def stream():
        for one in random_rollouts([3] * 200):
            read.append(one)
            yield one

    records = capture_neurons(
        model, letter_tokenizer(has_marker=False), stream(), SMALL.model_copy(update={"batch_size": 2})
    )
    assert next(records).question_id == "q0"
    assert len(read) == 2 * capture.BATCHES_SORTED_TOGETHER
    assert [record.question_id for record in records] == [f"q{number}" for number in range(1, 200)]


def test_batches_hold_like_lengths_and_few_tokens():
    texts = [capture._Text((1,) * 10, (1,) * length) for length in (500, 3, 500, 4, 3, 0, 16_000, 500)]
    batches = list(capture._batches(texts, batch_size=3))
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert batches[-2:] == [[0, 2, 7], [6]]
    for batch in batches:
        padded = len(batch) * sum(capture._widths(texts, batch))
        assert len(batch) == 1 or padded <= capture.MAX_BATCH_TOKENS


@pytest.mark.parametrize(("state", "width"), [(0, 1), (5, 40), (1_700, 1_750), (9, 8_200), (4_096, 9_000)])
def test_pieces_are_whole_chunks_and_not_long(state, width):
    bounds = capture._piece_bounds(state, width, 512)
    assert (bounds[0], bounds[-1]) == (0, width)
    assert all(first < last <= first + 2_047 for first, last in pairwise(bounds))
    assert all((bound - state) % 512 == 0 for bound in bounds[1:-1])


def test_neurons_are_not_kept(monkeypatch):
    """Each layer's activations are gone before the next layer's come."""
    import weakref

    model, alive = build("llama"), []

    def reduce(self, layer, neurons, segments, rows):
        assert not any(reference() is not None for reference in alive)
        alive.append(weakref.ref(neurons))
        return original(self, layer, neurons, segments, rows)

    original = capture._Reader._reduce
    monkeypatch.setattr(capture._Reader, "_reduce", reduce)
    captured(model, random_rollouts([20]))
    assert len(alive) == LAYERS


def test_nothing_runs_after_the_last_layers_neurons():
    model = build("llama")
    ran = []
    model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    backbone(model).norm.register_forward_hook(lambda *_: ran.append("norm"))
    backbone(model).layers[-1].mlp.down_proj.register_forward_hook(lambda *_: ran.append("down"))
    captured(model, random_rollouts([20]))
    assert ran == []


def test_each_distinct_token_is_projected_once(monkeypatch):
    shapes = []

    def readout(weight, rows):
        shapes.append(tuple(rows.shape))
        return original(weight, rows)

    original = capture.token_readout
    monkeypatch.setattr(capture, "token_readout", readout)
    captured(build("llama"), [rollout([3], [7, 7, 8, 7, 8]), rollout([3], [8, 9, 9, 9])])
    assert shapes == [(3, HIDDEN)] * LAYERS


def test_hooks_read_what_the_plain_forward_computes():
    """The padded, cached, stopped pass sees the neurons of one plain pass of the same text."""
    model = build("mistral")
    (one,) = random_rollouts([30])
    ids = torch.tensor([[*one.prompt_ids, *one.completion_ids]])
    seen = {}
    with torch.no_grad(), hook_neurons(find_ffns(model), "gate", seen.__setitem__):
        backbone(model)(input_ids=ids)
    neurons = np.stack([seen[layer][0].double().numpy() for layer in range(LAYERS)])
    (record,) = captured(model, [one])
    counted, overlap, _ = expected_sets(model, one, SMALL, neurons)
    assert (record.consensus_score, record.overlap_set.tolist()) == (len(counted), overlap)
    assert int(ids.max()) < VOCAB


def test_batches_are_told_as_they_are_read():
    rollouts = random_rollouts(LENGTHS)
    told = []
    settings = SMALL.model_copy(update={"batch_size": 4})
    tokenizer = letter_tokenizer(has_marker=False)
    list(
        capture_neurons(build("llama"), tokenizer, rollouts, settings, on_read=lambda *new: told.append(new))
    )
    assert len(told) >= 3
    assert sum(completions for completions, _ in told) == len(LENGTHS)
    assert sum(tokens for _, tokens in told) == sum(
        len(r.prompt_ids) + len(r.completion_ids) for r in rollouts
    )
