"""General questions through the command line: what both models made of them, and the KL, against plain transformers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from end_to_end.conftest import write_questions
from end_to_end.fork_run import WholeRun
from end_to_end.test_pipeline import run
from neuron_opsd.records import Rollout
from neuron_opsd.store.run_folder import RunFolder


def log_probs(model_folder: str, rollout: Rollout) -> torch.Tensor:
    """Of the whole vocabulary at each completion token. Shape (tokens, vocab)."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64)
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits, dim=-1)


def test_general_questions_are_compared_and_the_kl_is_exact(
    command: list[str],
    lettered_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    command[3] = str(lettered_model_folder)
    general = write_questions(tmp_path / "general.jsonl", "general", 6)
    key = tmp_path / "key.jsonl"
    key.write_text("".join(f'{{"question_id": "general-{i}", "answer": "A"}}\n' for i in range(3)))
    folder = tmp_path / "run"
    more = [f"evaluation.general_paths=[{general}]", f"evaluation.general_answers=[{key}]"]
    more += ["evaluation.general_samples=2", "evaluation.max_new_tokens=1", "evaluation.p_true=true"]
    more.append("training.learning_rate=0.001")  # so that both models' answers can be read
    assert run([*command, "--output", str(folder), *more], monkeypatch) == 0
    assert "evaluation/general_kl: 2 passes in" in caplog.text

    found = json.loads((folder / "evaluation" / "results.json").read_text())["general"]
    assert list(found["domains"]) == ["general"]
    block = found["domains"]["general"]
    assert list(block["confidence_kinds"]) == ["vote_share", "option_probability", "p_true"]
    assert (block["num_questions"], block["num_with_gold"]) == (6, 3)
    assert list(block["metrics"])[:2] == ["avg", "maj"]  # in the order of the report, not of the alphabet
    assert {"avg", "ece", "option_ece"} <= block["metrics"].keys()
    assert found["num_samples"] == 2  # evaluation.general_samples
    kl, total, num_tokens = found["kl_from_base"], 0.0, 0
    assert kl["num_questions"] == 6
    for rollout in RunFolder(folder).stage("evaluation/general_base").read(Rollout):
        if rollout.rollout_index == 0:
            base, trained = log_probs(command[3], rollout), log_probs(str(folder / "model"), rollout)
            total += (trained.exp() * (trained - base)).sum().item()
            num_tokens += len(rollout.completion_ids)
    assert kl["num_tokens"] == num_tokens
    assert kl["value"] == pytest.approx(total / num_tokens, rel=1e-3)
    assert kl["value"] > 1e-6
    row = rf"| KL(trained \|\| base) on general questions (nats a token) | {kl['value']:.4f} |"
    assert row in (folder / "report.md").read_text()


def test_a_general_set_leaves_training_alone(
    whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general = write_questions(tmp_path / "general.jsonl", "general", 4)
    more = [f"evaluation.general_paths=[{general}]", "--until", "train", "--output", str(tmp_path / "run")]
    assert run([*whole_run.command, *more], monkeypatch) == 0
    for file in ("questions/part-00000.parquet", "training/metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (whole_run.folder / file).read_bytes()
