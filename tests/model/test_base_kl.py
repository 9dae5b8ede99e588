import pytest
import torch

from helpers import build_tiny_model
from neuron_opsd.model.base_kl import keep_states, kl_from_base

TEXTS = [([5, 6, 7], [8, 9]), ([1, 2], [3, 4, 5, 6, 7])]


def naive(trained, base, prompt, completion) -> float:
    ids = torch.tensor([[*prompt, *completion]])
    after, before = (
        model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1) for model in (trained, base)
    )
    return (after.exp() * (after - before)).sum().item()


@pytest.mark.parametrize("tied", [False, True])
def test_agrees_with_both_models_side_by_side(tied: bool) -> None:
    base, trained = (build_tiny_model(seed=seed, tied=tied) for seed in (0, 1))  # heads and bodies differ
    found = kl_from_base(trained, TEXTS, keep_states(base, TEXTS))
    with torch.no_grad():
        assert found == pytest.approx([naive(trained, base, *text) for text in TEXTS], rel=1e-4)
        reversed_order = [naive(base, trained, *text) for text in TEXTS]
    assert found != pytest.approx(reversed_order, rel=1e-2)  # the direction is told apart


def test_states_that_are_known_are_not_read() -> None:
    base, trained = (build_tiny_model(seed=seed) for seed in (0, 1))
    kept, others = (keep_states(model, TEXTS).states for model in (base, trained))
    expected = kl_from_base(trained, TEXTS, keep_states(base, TEXTS))
    for model in (base, trained):
        model.register_forward_pre_hook(lambda *_: pytest.fail("a text is read again"))
    assert kl_from_base(trained, TEXTS, keep_states(base, TEXTS, kept), others) == expected


def test_an_untrained_model_is_at_no_distance() -> None:
    base = build_tiny_model()
    assert kl_from_base(build_tiny_model(), TEXTS, keep_states(base, TEXTS)) == [0.0, 0.0]
