"""Completions of one token are drawn from the pass that learns from them, and nothing that is trained depends on it."""

import pytest
import torch

from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.training.items import TrainingItem
from training.test_teacher_orders import ordered_item
from training.training_runs import TOKENIZER, assert_same_bits, make_item, rows, run


class CountingEngine(HFEngine):
    """Notes how many prompts it is given."""

    num_prompts = 0

    def generate(self, requests, sampling):
        CountingEngine.num_prompts += len(requests)
        return super().generate(requests, sampling)


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(CountingEngine, "num_prompts", 0)
    return lambda: CountingEngine.num_prompts


def parity(item: TrainingItem) -> str | None:
    return "A" if item.completion_ids[0] % 2 else None


OPTIONS = {
    "steps": 3, "max_new_tokens": 1, "save_steps": 1, "temperature": 2.0, "read_answer": parity,
    "ends": tuple(range(0, 256, 3)), "make_engine": lambda student: CountingEngine(student, TOKENIZER),
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "ema", "micro_batch_size": 2},
        {"method": "lora", "teacher": "frozen", "teacher_orders": 3, "item": ordered_item},
        {"teacher": "frozen", "teacher_entropy": "matched", "loss_chunk_tokens": 1},
        {"teacher": "frozen", "divergence": "jsd", "support": "student_top_k", "top_k": 5},
    ],
    ids=["ema", "orders", "matched", "top k"],
)
def test_the_same_is_learnt_and_reported(changes, tmp_path, monkeypatch, asked):
    options = {**OPTIONS, **changes}
    ends = list(options["ends"])
    late = run(tmp_path / "late", end_ids=ends, **options)
    assert asked() == 0
    monkeypatch.setattr(TrainingSettings, "draws_while_learning", False)
    first = run(tmp_path / "first", end_ids=ends, **options)
    assert asked() > 0
    assert_same_bits(late, first)
    found, expected = rows(tmp_path / "late"), rows(tmp_path / "first")
    assert found == expected
    assert 0 < min(row["parse_rate"] for row in found) < 1
    assert 0 < min(row["truncated_fraction"] for row in found) < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"max_new_tokens": 2},
        {"num_rollouts": 2, "micro_batch_size": 4},
        {"rollout_steps": 2},
        {"divergence": "sampled_token"},
        {"truncated": "mask"},
        {"distil": "disagreeing", "num_rollouts": 2, "micro_batch_size": 4},
        {"method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_an_engine_writes_what_a_loss_depends_on(changes, tmp_path, asked):
    run(tmp_path, **{**OPTIONS, "steps": 1, **changes})
    assert asked() > 0


def test_the_log_shows_a_completion_that_was_drawn(tmp_path):
    seen: list[TrainingItem] = []
    run(tmp_path, on_first_batch=seen.append, **OPTIONS)
    (item,) = seen
    assert item.student_ids == make_item(item.place).student_ids
    assert (len(item.completion_ids), len(item.log_probs)) == (1, 1)
    assert item.log_probs[0] < 0
    assert torch.tensor(item.log_probs).isfinite().all()
