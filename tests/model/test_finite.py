"""NaN and infinite numbers are refused wherever logits are read; the message names the layer and the way out."""

import math

import pytest
import torch

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.engines.base import Request, Sampling, check_finite
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.errors import EngineError, NotFiniteError
from neuron_opsd.model.base_kl import keep_states, kl_from_base
from neuron_opsd.model.option_scores import reply_log_probs

PROMPT = (5, 6, 7)


def broken(kind: str):
    """A tiny model whose second layer gives infinite values."""
    model = build_tiny_model()
    projection = model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        if kind == "float16":
            model = model.half()
            projection.weight.fill_(6e4)  # finite itself; the products leave float16
        else:
            projection.weight[0, 0] = torch.inf if kind == "inf" else torch.nan
    return model


def sample(model, **options) -> None:
    sampling = Sampling(**{"temperature": 1.0, "max_new_tokens": 4, **options})
    requests = [Request(prompt_ids=PROMPT, seeds=(1, 2)), Request(prompt_ids=PROMPT * 3, seeds=(3,))]
    list(HFEngine(model, build_tiny_tokenizer()).generate(requests, sampling))


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0}, {"top_p": 0.9}], ids=["drawn", "greedy", "nucleus"]
)
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("inf", r"model.layers.1.mlp.down_proj \(float32\).*own weights are not finite.*model's files"),
        ("nan", r"model.layers.1.mlp.down_proj \(float32\).*own weights are not finite"),
        ("float16", r"model.layers.1.mlp.down_proj \(float16\) .*Set model.dtype=bfloat16 or float32"),
    ],
)
def test_sampling_names_the_layer(kind, told, options):
    with pytest.raises(NotFiniteError, match=told):
        sample(broken(kind), **options)


def test_a_value_that_appears_while_sampling_is_found():
    """The embedding of one token is broken: the prompt is read well, and the completion meets it."""
    model = build_tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[100:] = torch.inf
    with pytest.raises(NotFiniteError, match=r"model.embed_tokens \(float32\)"):
        sample(model, max_new_tokens=40)


def test_options_and_kl_are_refused_too():
    with pytest.raises(NotFiniteError, match=r"options are NaN or infinite: model.layers.1.mlp.down_proj"):
        reply_log_probs(broken("inf"), [PROMPT], [[(8,), (9,)]], batch_size=2)
    kept = keep_states(build_tiny_model(), [(PROMPT, (8, 9))])
    with pytest.raises(NotFiniteError, match=r"model.layers.1.mlp.down_proj"):
        kl_from_base(broken("inf"), [(PROMPT, (8, 9))], kept)


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf, -9999.0, None])
def test_an_engine_elsewhere_is_refused(value):
    with pytest.raises(EngineError, match=rf"A server gives .* log-probability {value}: .*Change it"):
        check_finite([-0.5, value], source="A server", way_out="Change it.")
    check_finite([-0.5, -80.0], source="A server", way_out="")
