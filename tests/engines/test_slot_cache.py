"""The transformers engine's cache: rows that come and go, a buffer that grows and shifts, and no trace of either."""

from collections import Counter

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, LinearAttentionLayer

from helpers import build_tiny_model
from neuron_opsd.engines import hf, slot_cache
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.engines.shared_prompts import SharedPromptCache
from neuron_opsd.engines.slot_cache import SlotCache
from neuron_opsd.errors import EngineError


def filled(*rows: list[float]) -> DynamicCache:
    """One layer, one head of size one; a key is the number given, a value ten times that."""
    keys = torch.tensor(rows)[:, None, :, None]
    cache = DynamicCache()
    cache.update(keys, 10 * keys, 0)
    return cache


def write(cache: SlotCache, *numbers: float) -> list[list[float]]:
    """One token a row, as a model writes it.

    Returns:
        The keys that the model then reads, those before a row's start left out.
    """
    cache.make_room()
    states = torch.tensor(numbers)[:, None, None, None]
    keys, values = cache.update(states, 10 * states, 0)
    assert torch.equal(values, 10 * keys)
    assert cache.starts_on(keys.device).tolist() == cache.starts
    read = [
        row[start - cache.first :].tolist() for row, start in zip(keys[:, 0, :, 0], cache.starts, strict=True)
    ]
    cache.step()
    return read


def test_rows_by_hand(monkeypatch):
    monkeypatch.setattr(slot_cache, "FIRST_ROOM", 1)
    cache = SlotCache(max_columns=7)
    cache.admit(filled([0.0, 1.0, 2.0], [3.0, 4.0, 5.0]), [2, 3], [2, 1])  # the first is padded on the left
    assert (cache.lengths(), cache.first, cache.capacity) == ([2, 2, 3], 0, 5)
    assert write(cache, 6, 7, 8) == [[1, 2, 6], [1, 2, 7], [3, 4, 5, 8]]
    cache.remove(0)  # the last takes its place
    assert write(cache, 9, 10) == [[3, 4, 5, 8, 9], [1, 2, 7, 10]]
    cache.admit(filled([11.0]), [1], [1])
    assert cache.capacity == 7  # grown by half, and no wider than a row can become
    assert write(cache, 12, 13, 14) == [[3, 4, 5, 8, 9, 12], [1, 2, 7, 10, 13], [11, 14]]
    cache.remove(0)
    cache.remove(1)
    assert write(cache, 15) == [[11, 14, 15]]
    assert cache.num_slots == 3
    assert write(cache, 16) == [[11, 14, 15, 16]]  # laid out anew, for one row and its columns
    assert (cache.end, cache.capacity, cache.first, cache.num_slots) == (4, 5, 0, 1)
    # Longer than the rows that are there: these move to the right.
    cache.admit(filled([17.0, 18.0, 19.0, 20.0, 21.0, 22.0]), [6], [1])
    assert write(cache, 23, 24) == [[11, 14, 15, 16, 23], [17, 18, 19, 20, 21, 22, 24]]
    cache.remove(1)
    cache.remove(0)
    cache.admit(filled([25.0, 26.0]), [2], [1])  # as if new
    assert write(cache, 27) == [[25, 26, 27]]


def test_a_layout_keeps_to_the_budget(monkeypatch):
    monkeypatch.setattr(slot_cache, "FIRST_ROOM", 2)
    cache = SlotCache(max_columns=100, max_tokens=24)
    cache.expected_rows = 50
    cache.admit(filled([1.0, 2.0]), [2], [3])
    assert (cache.num_slots, cache.capacity) == (6, 4)  # as many slots as fit with room for each
    assert cache.max_rows() == 6
    assert cache.max_rows([20]) == 1  # a row goes on for an eighth at least


NEW = 50  # tokens of the longest completion


def long_requests() -> tuple[list[Request], Sampling]:
    state = torch.Generator().manual_seed(1)
    prompts = [tuple(torch.randint(3, 259, (n,), generator=state).tolist()) for n in (21, 17, 9, 5, 4, 3, 2)]
    requests = [Request(prompt_ids=ids, seeds=(2 * i, 2 * i + 1)) for i, ids in enumerate(prompts)]
    return requests, Sampling(temperature=2.0, max_new_tokens=NEW)


@pytest.fixture(scope="module")
def model():
    """Of its tokens eight end a reply, so that lengths differ."""
    model = build_tiny_model()
    model.generation_config.eos_token_id = [2, *range(100, 107)]
    return model


@pytest.fixture(scope="module")
def each_alone(model, tiny_tokenizer):
    """Every completion in a cache of its own."""
    requests, sampling = long_requests()
    engine = HFEngine(model, tiny_tokenizer)
    alone = [[Request(prompt_ids=r.prompt_ids, seeds=(seed,)) for seed in r.seeds] for r in requests]
    return [[next(iter(engine.generate([one], sampling)))[1][0] for one in group] for group in alone]


@pytest.mark.parametrize(("batch_size", "budget"), [(3, None), (8, 160), (14, 71)], ids=str)
def test_layouts_pauses_and_budgets_leave_no_trace(
    model, tiny_tokenizer, monkeypatch, each_alone, batch_size, budget
):
    """Long completions of unequal length through few places, against each alone."""
    seen, largest = Counter(), 0
    lay_out, pause = SlotCache._lay_out, hf._RunningBatch._leave

    def noted(self, **options):
        nonlocal largest
        lay_out(self, **options)
        held = [self, self.prompts] if isinstance(self, SharedPromptCache) else [self]
        largest = max(largest, sum(cache.num_slots * cache.capacity for cache in held))
        seen["layouts"] += 1

    def leave(self, i, kept):
        row = pause(self, i, kept)
        seen["paused"] += not row.ended and len(row.tokens) < NEW
        return row

    monkeypatch.setattr(SlotCache, "_lay_out", noted)
    monkeypatch.setattr(hf._RunningBatch, "_leave", leave)
    monkeypatch.setattr(slot_cache, "FIRST_ROOM", 8)
    requests, sampling = long_requests()
    engine = HFEngine(model, tiny_tokenizer, batch_size=batch_size, cache_tokens=budget)
    found = dict(engine.generate(requests, sampling))
    assert seen["layouts"] > 1
    assert bool(seen["paused"]) == (budget is not None)
    assert largest <= (budget or 14 * (21 + NEW))
    assert len({len(c.token_ids) for group in found.values() for c in group}) > 5
    for i, group in enumerate(each_alone):
        for completion, expected in zip(found[i], group, strict=True):
            assert completion.token_ids == expected.token_ids
            assert completion.finish_reason == expected.finish_reason
            assert completion.log_probs == pytest.approx(expected.log_probs, abs=1e-4)


def test_a_budget_below_one_completion_is_refused(tiny_model, tiny_tokenizer):
    requests, sampling = long_requests()
    engine = HFEngine(tiny_model, tiny_tokenizer, cache_tokens=70)
    with pytest.raises(EngineError, match=r"21 tokens and 50 new ones exceed engine.cache_tokens of 70"):
        list(engine.generate(requests, sampling))


def test_the_default_budget_is_a_share_of_free_memory(tiny_model, monkeypatch):
    """Two layers of two heads of eight numbers, keys and values, four bytes each: 256 bytes a token."""
    monkeypatch.setattr(hf, "free_memory", lambda device: 1_000_000)
    assert hf.free_cache_tokens(tiny_model) == 600_000 // 256
    monkeypatch.setattr(hf, "free_memory", lambda device: None)
    assert hf.free_cache_tokens(tiny_model) is None


def test_a_default_budget_that_is_too_small_goes_on_with_one_warning(
    model, tiny_tokenizer, monkeypatch, caplog, each_alone
):
    requests, sampling = long_requests()
    monkeypatch.setattr(hf, "free_memory", lambda device: 20_000)
    engine = HFEngine(model, tiny_tokenizer)
    found = dict(engine.generate(requests, sampling))
    assert [[completion.token_ids for completion in found[i]] for i in sorted(found)] == [
        [completion.token_ids for completion in group] for group in each_alone
    ]
    list(engine.generate(requests[-1:], sampling))  # too long for the memory, too
    warned = [record for record in caplog.records if "The free memory holds" in record.getMessage()]
    assert len(warned) == 1
    assert "46 tokens" in warned[0].getMessage()


def test_prompts_are_read_in_passes_of_bounded_size(tiny_model, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(hf, "PREFILL_TOKENS", 40)
    shapes = []
    hook = tiny_model.register_forward_pre_hook(
        lambda _, args, options: shapes.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    requests, _ = long_requests()
    list(HFEngine(tiny_model, tiny_tokenizer).generate(requests, Sampling(temperature=0, max_new_tokens=1)))
    hook.remove()
    assert shapes[-3:] == [(1, 21), (2, 17), (4, 5)]  # before them a token is measured, and sharing tried
    assert max(rows * columns for rows, columns in shapes) <= 40


def test_a_state_that_is_no_list_of_tokens_is_refused():
    cache = SlotCache(max_columns=1)
    with pytest.raises(EngineError, match=r"This model has a LinearAttentionLayer. Use engine.name=vllm"):
        cache.admit(Cache(layers=[LinearAttentionLayer()]), [1], [1])
