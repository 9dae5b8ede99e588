from dataclasses import replace

import pytest
import torch

from helpers import build_tiny_model
from neuron_opsd.model import base_kl
from neuron_opsd.model.base_kl import Texts, keep_states, kl_from_base, kl_to_model
from neuron_opsd.model.unembedding import divide_logits
from neurons.tiny_models import build

TEXTS = [([5, 6, 7], [8, 9]), ([1, 2], [3, 4, 5, 6, 7])]
BEGINNING = list(range(20, 40))
ALIKE = [([*BEGINNING, *prompt], completion) for prompt, completion in [*TEXTS, ([4], [5]), ([4, 3], [])]]


def naive(trained, base, prompt, completion) -> float:
    ids = torch.tensor([[*prompt, *completion]])
    after, before = (
        model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1) for model in (trained, base)
    )
    return (after.exp() * (after - before)).sum().item()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("texts", [TEXTS, ALIKE])
def test_agrees_with_both_models_side_by_side(tied: bool, texts: Texts) -> None:
    base, trained = (build_tiny_model(seed=seed, tied=tied) for seed in (0, 1))  # heads and bodies differ
    found = kl_from_base(trained, texts, keep_states(base, texts))
    with torch.no_grad():
        assert found == pytest.approx([naive(trained, base, *text) for text in texts], rel=1e-4)
        reversed_order = [naive(base, trained, *text) for text in texts]
    assert found != pytest.approx(reversed_order, rel=1e-2)  # the direction is told apart


def test_the_bias_of_a_head_is_kept_and_divided_with_the_rest() -> None:
    base, trained = (build("phi") for _ in range(2))
    with torch.no_grad():
        for model in (base, trained):
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) / 4)
    kept = keep_states(base, TEXTS)
    with torch.no_grad():
        assert kl_from_base(trained, TEXTS, kept) == pytest.approx(
            [naive(trained, base, *text) for text in TEXTS], rel=1e-4
        )
    divide_logits(base, 2.0)
    assert kl_to_model(base, TEXTS, replace(kept, temperature=2.0)) == pytest.approx(0, abs=1e-8)
    assert kl_to_model(base, TEXTS, kept) > 1e-3


def test_texts_are_read_together_and_their_beginning_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, widths = build_tiny_model(), []
    apart = [keep_states(model, [text]).states[0] for text in ALIKE]
    model.model.register_forward_hook(
        lambda module, _, options, output: widths.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    in_twos, alone = [(1, 20), (2, 6), (1, 20), (2, 1)], [(1, 25), (1, 27), (1, 22), (1, 22)]
    for most, expected in ((2048, [(1, 20), (4, 6)]), (54, in_twos), (1, alone)):
        monkeypatch.setattr(base_kl, "READ_TOKENS", most)
        widths.clear()
        for one, other in zip(keep_states(model, ALIKE).states, apart, strict=True):
            torch.testing.assert_close(one, other)
        assert widths == expected


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
