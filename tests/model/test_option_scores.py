import pytest
import torch

from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model import option_scores
from neuron_opsd.model.option_scores import _rows, log_probs_after, read_first_tokens, reply_log_probs
from neuron_opsd.progress import listening


def naive(model, prompt, reply) -> float:
    logits = model(torch.tensor([[*prompt, *reply]])).logits[0].double().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + t, token].item() for t, token in enumerate(reply))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_agrees_with_one_plain_pass_for_each_reply(tiny_model, batch_size: int) -> None:
    prompts = [(5, 6, 7), (8, 9, 10, 11, 12), (5,)]
    replies = [[(20,), (21,)], [(20, 30, 40), (21,), (20, 30, 41), (20, 31)], [(7, 7)]]
    found = reply_log_probs(tiny_model, prompts, replies, batch_size=batch_size)
    for prompt, own, values in zip(prompts, replies, found, strict=True):
        assert values == pytest.approx([naive(tiny_model, prompt, reply) for reply in own], abs=1e-4)


def test_each_batch_is_told_as_it_begins(tiny_model) -> None:
    told: list[str] = []
    with listening(lambda _, doing: told.append(doing)):
        reply_log_probs(tiny_model, [(5, 6), (7,), (8,)], [[(9, 10)], [(9, 11)], [(4,)]], batch_size=2)
    assert told == ["reading 1 of 3", "reading 3 of 3"]


def test_letters_share_one_row_of_their_prompt() -> None:
    assert len(_rows([[(10,), (11,), (12,)], [(10,), (11,)]])) == 2
    assert len(_rows([[(10, 5), (10, 6), (11, 5)], [(10,)]])) == 3


def test_probabilities_of_all_single_tokens_sum_to_one(tiny_model) -> None:
    vocab = [(token,) for token in range(260)]
    (values,) = reply_log_probs(tiny_model, [(5, 6)], [vocab], batch_size=4)
    assert torch.tensor(values).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cache_tokens", [1, 24, 8192])
def test_replies_to_prompts_that_sampling_reads_score_the_same(
    tiny_model, tiny_tokenizer, cache_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(option_scores, "CACHE_TOKENS", cache_tokens)
    prompts = [(5, 6, 7), (8, 9, 10, 11, 12), (5,)]
    replies = [[(20,), (21,)], [(20, 30, 40), (21,), (20, 30, 41), (20, 31)], [(7, 7)]]
    found = {}

    def on_read(model, read) -> None:
        asked = [replies[prompts.index(prompt)] for prompt in read.prompts]
        found.update(zip(read.prompts, log_probs_after(model, read, asked), strict=True))

    requests = [Request(prompt_ids=prompt, seeds=(1, 2)) for prompt in prompts]
    sampling = Sampling(temperature=1.0, max_new_tokens=3)
    engines = [HFEngine(tiny_model, tiny_tokenizer, on_read=listener) for listener in (None, on_read)]
    alone, listened = (sorted(engine.generate(requests, sampling)) for engine in engines)
    assert alone == listened  # what is sampled stays as it was
    expected = reply_log_probs(tiny_model, prompts, replies, batch_size=4)
    for prompt, values in zip(prompts, expected, strict=True):
        assert found[prompt] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("num_shared", [0, 7, 8, 20])
def test_what_prompts_begin_with_is_read_once(
    tiny_model, num_shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tuple(range(3, 3 + num_shared))
    prompts = [(*shared, *rest) for rest in ((40, 41), (40,), (50, 51, 52), (60,), (40,))]
    widths = []
    handle = tiny_model.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    found = {first.place: first.logits for first in read_first_tokens(tiny_model, prompts, batch_size=4)}
    handle.remove()
    for place, prompt in enumerate(prompts):
        expected = tiny_model(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(found[place], expected, atol=1e-4, rtol=1e-4)
    if num_shared >= 8:
        assert widths[:2] == [(1, num_shared), (4, 3)]
    else:
        assert len(widths) == 2


def test_equal_prompts_have_equal_logits(tiny_model) -> None:
    prompts = [tuple(range(3, 20))] * 2
    found = {first.place: first.logits for first in read_first_tokens(tiny_model, prompts, batch_size=4)}
    torch.testing.assert_close(
        found[0], tiny_model(torch.tensor([range(3, 20)])).logits[0, -1], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(found[0], found[1])
