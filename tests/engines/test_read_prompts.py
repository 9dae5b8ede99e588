"""What all prompts begin with is read once, and completions are those of prompts that are read whole."""

import pytest
import torch

from engines.test_shared_prompts import build
from neuron_opsd.engines.base import Completion, Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.engines.read_prompts import PromptReader
from neuron_opsd.model.option_scores import log_probs_after, reply_log_probs
from neuron_opsd.model.unembedding import backbone

COMMON = tuple(range(40, 64))
RESTS = ((7, 9, 11, 13, 15), (8, 6), (7, 10, 12), (9, 9), (5, 6, 7, 8, 9, 10, 11))
PROMPTS = [(*COMMON, *rest) for rest in RESTS]
SAMPLED = Sampling(temperature=2.0, max_new_tokens=24)
REQUESTS = [
    Request(prompt_ids=prompt, seeds=tuple(range(10 * i, 10 * i + 2))) for i, prompt in enumerate(PROMPTS)
]


def sample(model, tokenizer, **options) -> tuple[list[list[Completion]], int]:
    """The completions, and how many tokens of prompts the model read."""
    read = []
    engine = HFEngine(model, tokenizer, **options)
    engine._may_share()
    handle = model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: read.append(args[0].shape)
    )
    done = dict(engine.generate(REQUESTS, SAMPLED))
    handle.remove()
    return [done[i] for i in range(len(REQUESTS))], sum(rows * n for rows, n in read if n > 1)


def read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron_opsd.engines.read_prompts.MIN_SHARED", 1000)


@pytest.mark.parametrize(
    ("family", "changes", "shares"),
    [
        ("llama", {}, True),
        ("qwen3", {"num_key_value_heads": 1}, True),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}, True),
        ("mistral", {"sliding_window": 6}, False),
        ("gemma2", {"sliding_window": 6}, False),
    ],
)
@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 10, "cache_tokens": 260}])
def test_the_common_part_is_read_once(
    tiny_tokenizer, monkeypatch: pytest.MonkeyPatch, family: str, changes: dict, shares: bool, options: dict
) -> None:
    """With places that change hands, and completions that are paused and read again."""
    model = build(family, **changes)
    found, num_read = sample(model, tiny_tokenizer, **options)
    read_whole(monkeypatch)
    expected, num_whole = sample(model, tiny_tokenizer, **options)
    assert [[c.token_ids for c in group] for group in found] == [
        [c.token_ids for c in group] for group in expected
    ]
    for group, others in zip(found, expected, strict=True):
        for own, other in zip(group, others, strict=True):
            assert own.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    if not shares:
        assert num_read == num_whole
    elif "cache_tokens" not in options:
        assert num_whole - num_read == len(COMMON) * (len(PROMPTS) - 1)
    else:
        assert num_read < num_whole


def test_what_is_held_is_what_reading_whole_holds(tiny_model) -> None:
    prompts = [*PROMPTS, (*COMMON, 8)]
    with torch.inference_mode():
        apart, whole = (PromptReader(tiny_model, prompts, shares=shares) for shares in (True, False))
        (found, logits), (expected, others) = apart.read(prompts), whole.read(prompts)
    assert torch.equal(found.mask, expected.mask)
    assert torch.allclose(logits, others, atol=1e-4)
    assert torch.allclose(found.last_states, expected.last_states, atol=1e-4)
    seen = expected.mask.bool()[:, None, :, None]
    for own, other in zip(found.cache.layers, expected.cache.layers, strict=True):
        assert torch.allclose(own.keys * seen, other.keys * seen, atol=1e-4)
        assert torch.allclose(own.values * seen, other.values * seen, atol=1e-4)


@pytest.mark.parametrize(("family", "shape"), [("llama", (4, 6)), ("mistral", (8, 3))])
def test_replies_of_a_prompt_are_read_in_one_row(family: str, shape: tuple[int, int]) -> None:
    """What several begin with is read once. A window counts columns, so there each reply has a row of its own."""
    model = build(family, **({"sliding_window": 6} if family == "mistral" else {}))
    replies = [
        [(5, 6, 7), (5, 6, 8, 9), (8,), (9, 4, 3), (5, 5, 5)],
        [(9, 4)], [(3, 3), (3, 4)], [], [(7, 7, 7, 7)],
    ]  # fmt: skip
    shapes = []
    with torch.inference_mode():
        read, _ = PromptReader(model, PROMPTS, shares=family == "llama").read(PROMPTS)
        handle = backbone(model).register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        found = log_probs_after(model, read, replies)
        handle.remove()
    assert [tuple(read) for read in shapes] == [shape]
    for own, other in zip(found, reply_log_probs(model, PROMPTS, replies, batch_size=8), strict=True):
        assert own == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("prompts", [PROMPTS[:1], [COMMON[:5], COMMON[:7]], [COMMON, (3, *COMMON)]])
def test_little_in_common_is_not_read_apart(tiny_model, prompts) -> None:
    assert PromptReader(tiny_model, prompts, shares=True).common == ()
