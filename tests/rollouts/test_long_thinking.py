"""Completions of 8,192 tokens through the command line: as the model writes them, and those that were cut counted."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from end_to_end.conftest import write_questions
from neuron_opsd import cli
from neuron_opsd.config import ModelSettings
from neuron_opsd.model.load import load_tokenizer
from neuron_opsd.records import Rollout
from neuron_opsd.store.run_folder import RunFolder

LIMIT = 8192


@pytest.mark.slow
def test_what_runs_into_the_limit_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    save_model_that_rarely_ends(folder)
    questions = write_questions(tmp_path / "sums.jsonl", "sums", 4)
    arguments = [
        "run",
        "neuron_opsd",
        "--model",
        str(folder),
        "--questions",
        str(questions),
        "--until",
        "rollouts",
    ]
    settings = [f"rollouts.max_new_tokens={LIMIT}", "questions.test_fraction=0.25", "rollouts.num_rollouts=2"]
    settings.append("model.dtype=float32")  # in bfloat16 two ways to add are a thousandth apart
    monkeypatch.setattr(
        sys, "argv", ["neuron-opsd", *arguments, "--output", str(tmp_path / "run"), *settings]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    stage = RunFolder.open(tmp_path / "run").stage("rollouts")
    rollouts = stage.read(Rollout)
    cut = [rollout for rollout in rollouts if rollout.finish_reason == "length"]
    assert {len(rollout.completion_ids) for rollout in cut} == {LIMIT}
    assert all(len(r.completion_ids) < LIMIT for r in rollouts if r not in cut)
    assert 0 < len(cut) < len(rollouts) == 6
    summary = json.loads((stage.path / "manifest.json").read_text())["summary"]
    assert summary["truncated_fraction"] == pytest.approx(len(cut) / 6)
    tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
    assert summary["completion_tokens_mean"] == pytest.approx(tokens / 6)
    check_the_end(AutoModelForCausalLM.from_pretrained(folder), cut[0])


def check_the_end(model, rollout: Rollout, num_tokens: int = 64) -> None:
    """The last tokens have the probability that one forward pass over all 8,192 gives them."""
    with torch.inference_mode():
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
        logits = model(ids, logits_to_keep=num_tokens + 1).logits[0, :-1]
    last = torch.tensor(rollout.completion_ids[-num_tokens:])
    expected = torch.log_softmax(logits, -1).gather(1, last[:, None])[:, 0]
    assert rollout.token_log_probs[-num_tokens:] == pytest.approx(expected.tolist(), abs=1e-4)


def save_model_that_rarely_ends(folder: Path) -> None:
    """Random, with a real tokenizer: any of 49,152 tokens is as likely as the one that ends."""
    tokenizer = load_tokenizer(ModelSettings(name="embedded:smollm2-135m"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=LIMIT + 512,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
