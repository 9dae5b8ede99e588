import pytest
import torch

from neuron_opsd.model.option_scores import _rows, reply_log_probs


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


def test_letters_share_one_row_of_their_prompt() -> None:
    prompts = [(1, 2), (3,)]
    assert len(_rows(prompts, [[(10,), (11,), (12,)], [(10,), (11,)]])) == 2
    assert len(_rows(prompts, [[(10, 5), (10, 6), (11, 5)], [(10,)]])) == 3


def test_probabilities_of_all_single_tokens_sum_to_one(tiny_model) -> None:
    vocab = [(token,) for token in range(260)]
    (values,) = reply_log_probs(tiny_model, [(5, 6)], [vocab], batch_size=4)
    assert torch.tensor(values).exp().sum().item() == pytest.approx(1, abs=1e-5)
