"""Tiny models in bfloat16 through every pass: on the CPU always, and on a GPU where there is one (`pytest -m gpu`)."""

import math
import sys

import pytest
import torch
from devices_passes import PROMPTS, TOKENIZER, evaluation, loss_and_gradient, neurons, sampled
from transformers import LlamaConfig, LlamaForCausalLM

from end_to_end.conftest import command_for, write_questions
from helpers import build_tiny_model
from neuron_opsd import cli

# Measured: the loss moves by .2 to .5 %, and the cosine of the gradients is .9997 or more.
LOSS, DIRECTION = 0.01, 0.999
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
        ],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param, 0) if request.param == "cuda" else torch.device("cpu")


def model_on(device: torch.device, dtype: torch.dtype = torch.bfloat16):
    """Weights that bfloat16 holds, in any dtype."""
    return build_tiny_model().to(torch.bfloat16).to(device, dtype)


def test_sampled_log_probs_are_those_of_float32_within_rounding(device):
    exact = model_on(device, torch.float32)
    for prompt, group in zip(PROMPTS, sampled(model_on(device), cache_tokens=60), strict=True):
        for completion in group:
            ids = torch.tensor([[*prompt, *completion.token_ids]], device=device)
            with torch.no_grad():
                log_probs = exact(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1).cpu()
            expected = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.log_probs), expected, atol=0.15, rtol=0.05)


def test_neurons_are_mostly_those_of_float32(device):
    for found, exact in zip(neurons(model_on(device)), neurons(model_on(device, torch.float32)), strict=True):
        first, second = set(found.overlap_set.tolist()), set(exact.overlap_set.tolist())
        assert len(first & second) / len(first | second) > 0.6
        assert found.num_completion_tokens == exact.num_completion_tokens


def test_evaluation_is_that_of_float32_within_rounding(device):
    found, exact = evaluation(model_on(device)), evaluation(model_on(device, torch.float32))
    assert all(map(math.isfinite, found))
    assert found == pytest.approx(exact, abs=0.1, rel=0.05)


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "jsd"])
@pytest.mark.parametrize("kind", ["bfloat16", "autocast"])
def test_loss_and_gradient_are_those_of_float32(device, tmp_path, kind, divergence):
    options = {
        "is_sampled": False, "device": device, "divergence": divergence, "teacher": "ema", "num_rollouts": 2,
        "batch_size": 2, "micro_batch_size": 4,
    }  # fmt: skip
    exact, direction = loss_and_gradient(model_on(device, torch.float32), tmp_path / "exact", **options)
    if kind == "autocast":
        model, options["trainer"] = model_on(device, torch.float32), {"bf16": True}
    else:
        model = model_on(device)
    loss, gradient = loss_and_gradient(model, tmp_path / "rounded", **options)
    assert loss != exact  # else nothing was computed in bfloat16
    assert loss == pytest.approx(exact, rel=LOSS)
    assert torch.cosine_similarity(gradient, direction, dim=0) > DIRECTION


def test_a_whole_run_in_bfloat16(device, tmp_path):
    """Every stage, by the command line's own door; nothing is needed but the package."""
    model = LlamaForCausalLM(
        LlamaConfig(**{**build_tiny_model().config.to_dict(), "max_position_embeddings": 4096})
    )
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    pool = write_questions(tmp_path / "sums.jsonl", "sums", 12)
    command = command_for(tmp_path / "model", pool, write_questions(tmp_path / "other.jsonl", "other", 4))
    settings = [f"model.device={device.type}", "model.dtype=bfloat16", "contexts.max_prompt_tokens=2000"]
    settings += ["training.num_steps=1", "evaluation.num_samples=2", "preflight.num_questions=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["neuron-opsd", *command, "--output", str(tmp_path / "run"), *settings])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert not stop.value.code
    for made in (
        "neurons",
        "training/metrics.jsonl",
        "evaluation/results.json",
        "report.html",
        "model/config.json",
    ):
        assert (tmp_path / "run" / made).exists(), made
