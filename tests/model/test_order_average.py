"""The mean over orders, against each order read alone, on a tiny model in float64."""

import pytest
import torch

from helpers import build_tiny_model
from neuron_opsd.model.order_average import OrderView, mean_log_probs, view_states
from neuron_opsd.model.unembedding import backbone, logits_from_hidden

A, B, C = 65, 66, 67  # letter tokens


@pytest.fixture(scope="module")
def model():
    return build_tiny_model().double().eval()


def read_alone(model, prompt: tuple[int, ...], completion: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities at each place of a completion, from one plain pass."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(dim=-1)


def three_orders(prefix: tuple[int, ...]) -> list[OrderView]:
    return [
        OrderView((*prefix, 10, 11, 12, 5)),
        OrderView((*prefix, 11, 12, 10, 5), {A: C, B: A, C: B}),
        OrderView((*prefix, 12, 10, 11, 5), {A: B, B: C, C: A}),
    ]


def test_the_mean_is_that_of_each_order_read_alone_with_its_letters_renamed(model):
    views = [three_orders((7, 8, 9, 30)), [OrderView((40, 41, 42))]]  # the second has one order
    completions = [(B, 20), (C, 21, 22)]

    states = view_states(model, views, completions)
    logits = logits_from_hidden(model, states.hidden).double()
    found = mean_log_probs(logits, states.log_weights, states.shown, states.there)

    own = [read_alone(model, v.prompt_ids, v.rename(completions[0])).exp() for v in views[0]]
    for view, probs in zip(views[0], own, strict=True):
        letters = {token: probs[:, view.renamed.get(token, token)].clone() for token in (A, B, C)}
        for token, column in letters.items():
            probs[:, token] = column
    torch.testing.assert_close(found[:2].exp(), sum(own) / 3, rtol=1e-5, atol=1e-7)
    alone = read_alone(model, (40, 41, 42), completions[1])
    torch.testing.assert_close(found[2:], alone, rtol=1e-5, atol=1e-6)


def test_a_position_that_is_preferred_whatever_stands_there_averages_out():
    """The model says the first letter with .8 in each order, so each choice gets its place's mean."""
    shares = torch.tensor([0.8, 0.15, 0.05]).log()
    logits = torch.full((1, 3, 128), -50.0)
    logits[0, :, [A, B, C]] = shares
    views = three_orders(())
    shown = torch.tensor([[[0, 0, 0], [A, B, C], [A, B, C]]])
    there = torch.tensor([[[0, 0, 0]] + [[view.renamed[t] for t in (A, B, C)] for view in views[1:]]])
    weights = torch.full((1, 3), 1 / 3).log()

    found = mean_log_probs(logits, weights, shown, there).exp()

    torch.testing.assert_close(found[0, [A, B, C]], torch.full((3,), 1 / 3))
    assert found.sum().item() == pytest.approx(1)


def test_one_order_is_the_prompt_itself(model):
    states = view_states(model, [[OrderView((3, 4, 5))]], [(6, 7)])
    logits = logits_from_hidden(model, states.hidden).double()
    found = mean_log_probs(logits, states.log_weights, states.shown, states.there)
    torch.testing.assert_close(found, read_alone(model, (3, 4, 5), (6, 7)), rtol=1e-5, atol=1e-6)


def test_k_orders_read_what_is_common_once_and_the_rest_k_times():
    model, read = build_tiny_model(), []
    backbone(model).register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    orders = three_orders(tuple(range(20, 120)))
    view_states(model, [orders], [(B, 20)])
    # The last completion token predicts nothing.
    assert read == [100, 3 * (4 + 1)]
