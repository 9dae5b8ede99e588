"""A prompt held once for its completions: the same as copies compute, in less memory, where attention allows it."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from helpers import build_tiny_model
from neuron_opsd.engines.base import Completion, Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.engines.shared_prompts import SharedPromptCache, can_share_prompts
from neuron_opsd.engines.slot_cache import SlotCache

SAMPLED = Sampling(temperature=2.0, max_new_tokens=40)


def build(family: str, **changes) -> PreTrainedModel:
    shape = {
        "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.25,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": [2, *range(100, 107)],
    }  # fmt: skip
    torch.manual_seed(0)
    return (
        AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**shape, **changes})).float().eval()
    )


def groups(*sizes: tuple[int, int]) -> list[Request]:
    """(tokens of the prompt, its samples)."""
    state = torch.Generator().manual_seed(4)
    return [
        Request(
            prompt_ids=tuple(torch.randint(3, 259, (length,), generator=state).tolist()),
            seeds=tuple(range(100 * i, 100 * i + count)),
        )
        for i, (length, count) in enumerate(sizes)
    ]


RAGGED = groups((30, 5), (21, 1), (21, 3), (9, 2), (2, 6), (1, 2))


def generate(model, tokenizer, asked: list[Request], *, shares: bool, **options) -> list[list[Completion]]:
    engine = HFEngine(model, tokenizer, **options)
    engine.shares_prompts = shares
    done = dict(engine.generate(asked, SAMPLED))
    return [done[i] for i in range(len(asked))]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 4}),
        ("qwen3", {"num_key_value_heads": 1}),
        ("granite", {"attention_multiplier": 0.7}),  # its scores are scaled by a setting
        ("cohere", {}),
    ],
)
def test_completions_are_those_of_copies(tiny_tokenizer, family, changes):
    """Places that change hands, prompts that come and go, and one sample beside several."""
    model = build(family, **changes)
    assert can_share_prompts(model)
    copied = generate(model, tiny_tokenizer, RAGGED, shares=False, batch_size=7)
    assert len({len(c.token_ids) for group in copied for c in group}) > 1
    for group, expected in zip(
        generate(model, tiny_tokenizer, RAGGED, shares=True, batch_size=7), copied, strict=True
    ):
        assert [c.token_ids for c in group] == [c.token_ids for c in expected]
        for a, b in zip(group, expected, strict=True):
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-4)


def test_half_precision_rounds_no_more_than_copies_do():
    """One step in bfloat16, of both caches, against float32: scores between tokens are never rounded to 8 bits."""
    model, half = build("llama"), build("llama").bfloat16()
    model.load_state_dict({name: weight.float() for name, weight in half.state_dict().items()})
    (request,) = groups((200, 24))
    tokens = torch.arange(3, 27)

    def step(model, cache: SlotCache) -> torch.Tensor:
        prefilled = model(input_ids=torch.tensor([request.prompt_ids]), use_cache=True).past_key_values
        cache.admit(prefilled, [200], [24])
        cache.next_logits(model, tokens)
        return cache.next_logits(model, tokens.flip(0)).float()

    with torch.inference_mode():
        exact = step(model, SlotCache(max_columns=210))
        copied = (step(half, SlotCache(max_columns=210)) - exact).square().mean()
        shared = (step(half, SharedPromptCache(max_columns=10)) - exact).square().mean()
    assert can_share_prompts(half)
    assert shared < 1.2 * copied


def test_a_prompt_counts_once_in_the_budget(tiny_model, tiny_tokenizer, monkeypatch):
    """Eight samples of 100 tokens after 100 fit a cache of 900; copies would take 1,600."""
    held, rows, lay_out, step = [], [], SlotCache._lay_out, SlotCache.step

    def noted(self, **options):
        lay_out(self, **options)
        held.append(self.num_slots * self.capacity + 100 * isinstance(self, SharedPromptCache))

    def count(self):
        rows.append(len(self.starts))
        step(self)

    monkeypatch.setattr(SlotCache, "_lay_out", noted)
    monkeypatch.setattr(SlotCache, "step", count)
    asked = groups((100, 8))
    engine = HFEngine(tiny_model, tiny_tokenizer, cache_tokens=900)
    assert len(dict(engine.generate(asked, SAMPLED))[0]) == 8
    assert engine.shares_prompts
    assert max(held) <= 900
    assert rows[0] == 2  # the trial, of copies and of one
    assert rows[2] == 8


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 6}),
        ("gemma2", {"sliding_window": 6}),  # caps its scores, too
        ("llama", {"attn_implementation": "eager"}),
    ],
)
def test_other_attention_keeps_to_copies(tiny_tokenizer, family, changes):
    model = build(family, **changes)
    engine = HFEngine(model, tiny_tokenizer)
    (group,) = dict(engine.generate(groups((20, 2)), SAMPLED)).values()
    assert engine.shares_prompts is False
    (request,) = groups((20, 2))
    for completion in group:
        ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
        with torch.no_grad():
            log_probs = model(ids).logits[0, 19:-1].log_softmax(dim=-1)
        expected = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert completion.log_probs == pytest.approx(expected.tolist(), abs=1e-4)


def test_attention_that_does_more_is_found_by_trying():
    """A model that claims torch's attention, and changes the keys after they were cached, as no setting says."""
    model = build_tiny_model()
    assert can_share_prompts(model)
    attention = model.model.layers[1].self_attn
    plain = attention.forward

    def changed(*args, past_key_values=None, **options):
        options.pop("shared_prompts", None)  # as a model would that hands nothing on
        return plain(*args, past_key_values=past_key_values, **options)

    attention.forward = changed
    assert not can_share_prompts(model)
    model.model.layers[1].self_attn.forward = plain
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(torch.nan)
    assert not can_share_prompts(model)


def test_the_models_own_attention_is_back_after_each_step(tiny_model, tiny_tokenizer):
    for _ in HFEngine(tiny_model, tiny_tokenizer).generate(RAGGED, SAMPLED):
        assert tiny_model.config._attn_implementation == "sdpa"
