"""The transformers engine's cache: rows that come and go, a buffer that grows and shifts, and no trace of either."""

from collections import Counter

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, LinearAttentionLayer

from helpers import build_tiny_model
from neuron_opsd.engines import slot_cache
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
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
    states = torch.tensor(numbers)[:, None, None, None]
    keys, values = cache.update(states, 10 * states, 0)
    assert torch.equal(values, 10 * keys)
    read = [
        row[start - cache.first :].tolist() for row, start in zip(keys[:, 0, :, 0], cache.starts, strict=True)
    ]
    cache.step()
    return read


def test_rows_by_hand(monkeypatch):
    monkeypatch.setattr(slot_cache, "FIRST_CAPACITY", 2)
    cache = SlotCache(4)
    cache.admit(filled([0.0, 1.0, 2.0], [3.0, 4.0, 5.0]), [2, 3], [2, 1])  # the first is padded on the left
    assert (cache.lengths(), cache.first, cache.capacity) == ([2, 2, 3], 0, 5)
    assert write(cache, 6, 7, 8) == [[1, 2, 6], [1, 2, 7], [3, 4, 5, 8]]
    cache.remove(0)  # the last takes its place
    assert write(cache, 9, 10) == [[3, 4, 5, 8, 9], [1, 2, 7, 10]]
    assert cache.capacity == 7  # grown by half: the longest row begins at the first column
    cache.admit(filled([11.0]), [1], [1])
    assert write(cache, 12, 13, 14) == [[3, 4, 5, 8, 9, 12], [1, 2, 7, 10, 13], [11, 14]]
    cache.remove(0)
    cache.remove(1)
    assert write(cache, 15) == [
        [11, 14, 15]
    ]  # the buffer is full, and four columns are no longer read: shifted
    assert (cache.end, cache.capacity, cache.first) == (3, 7, 0)
    assert write(cache, 16) == [[11, 14, 15, 16]]
    cache.remove(0)
    cache.admit(filled([17.0, 18.0]), [2], [1])  # as if new
    assert write(cache, 19) == [[17, 18, 19]]


@pytest.mark.parametrize("batch_size", [3, 8])
def test_growth_and_shifts_leave_no_trace(tiny_tokenizer, monkeypatch, batch_size):
    """Long completions of unequal length through few slots, against each alone in a cache that only grows."""
    seen = Counter()
    for name in ("_shift", "_grow"):
        plain = getattr(SlotCache, name)
        monkeypatch.setattr(
            SlotCache, name, lambda self, *a, plain=plain, name=name: (seen.update([name]), plain(self, *a))
        )
    monkeypatch.setattr(slot_cache, "FIRST_CAPACITY", 8)
    model = build_tiny_model()
    state = torch.Generator().manual_seed(1)
    prompts = [tuple(torch.randint(3, 259, (n,), generator=state).tolist()) for n in (21, 17, 9, 5, 4, 3, 2)]
    requests = [Request(prompt_ids=ids, seeds=(2 * i, 2 * i + 1)) for i, ids in enumerate(prompts)]
    sampling = Sampling(temperature=2.0, max_new_tokens=150)
    found = dict(HFEngine(model, tiny_tokenizer, batch_size=batch_size).generate(requests, sampling))
    assert seen["_grow"]
    assert batch_size > 3 or seen["_shift"]
    assert len({len(c.token_ids) for group in found.values() for c in group}) > 5
    for i, request in enumerate(requests):
        for place, seed in enumerate(request.seeds):
            alone = [Request(prompt_ids=request.prompt_ids, seeds=(seed,))]
            ((_, (expected,)),) = HFEngine(model, tiny_tokenizer).generate(alone, sampling)
            assert found[i][place].token_ids == expected.token_ids
            assert found[i][place].log_probs == pytest.approx(expected.log_probs, abs=1e-4)


def test_a_state_that_is_no_list_of_tokens_is_refused():
    cache = SlotCache(1)
    with pytest.raises(EngineError, match=r"this model has a LinearAttentionLayer. Use engine.name=vllm"):
        cache.admit(Cache(layers=[LinearAttentionLayer()]), [1], [1])
