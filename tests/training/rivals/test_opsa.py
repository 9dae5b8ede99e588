"""OPSA: by hand, the same however a step is cut, and a model that grows surer of itself; with the signal broken not."""

import random
from pathlib import Path

import pytest
import torch

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.store.files import read_json_lines
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.rivals import opsa
from neuron_opsd.training.rivals.opsa import UnlikelyTokenTrainer, advantages, least_likely
from neuron_opsd.training.train import train

TOKENIZER = build_tiny_tokenizer()


def item(place: int) -> TrainingItem:
    state = random.Random(place)
    question = tuple(state.randrange(3, 259) for _ in range(state.randint(3, 9)))
    return TrainingItem(f"q{place}", question, question, seed=1000 + place)


def trained(folder: Path, *, steps: int, kind=UnlikelyTokenTrainer, **changes):
    given = {
        "objective": "unlikely_tokens", "teacher": "live", "method": "full", "batch_size": 8, "micro_batch_size": 8,
        "max_new_tokens": 10, "warmup_steps": 0, "loss_chunk_tokens": 16, "guard_rails": {"enabled": False},
    }  # fmt: skip
    chosen = TrainingSettings(**{**given, **changes})
    items = LazyItems(steps * chosen.batch_size, item)
    model = build_tiny_model(spread=0.25)
    train(
        model, lambda student: HFEngine(student, TOKENIZER), items, chosen, folder=folder, num_steps=steps, seed=0,
        trainer_type=kind,
    )  # fmt: skip
    return model, read_json_lines(folder / "metrics.jsonl")


def test_the_least_likely_fifth_by_hand() -> None:
    assert least_likely([-1.0, -5.0, -0.1, -5.0, -2.0], 0.2) == (False, True, False, False, False)
    assert least_likely([-1.0, -5.0, -0.1, -5.0, -2.0], 0.5) == (False, True, False, True, True)
    assert least_likely([-0.3], 0.2) == (True,)
    assert sum(least_likely([float(-i) for i in range(50)], 0.2)) == 10


def test_the_advantage_by_hand() -> None:
    found = advantages(torch.tensor([1.0, 3.0, 2.0]))
    assert found.tolist() == pytest.approx([-0.5, -1.0, -0.75])
    assert advantages(torch.tensor([2.0, 2.0])).tolist() == [-0.5, -0.5]
    assert advantages(torch.empty(0)).tolist() == []


SGD = {"trainer": {"optim": "sgd"}, "learning_rate": 0.1, "max_grad_norm": 1e6}


def test_one_step_is_the_gradient_written_out(tmp_path: Path) -> None:
    student, rows = trained(tmp_path, steps=1, unlikely_fraction=0.5, **SGD)
    model, drawn = build_tiny_model(spread=0.25), []
    engine = HFEngine(model, TOKENIZER)
    for place in range(8):
        one = item(place)
        request = Request(prompt_ids=one.student_ids, seeds=(one.seed,))
        ((_, (completion,)),) = engine.generate([request], Sampling(temperature=1.0, max_new_tokens=10))
        drawn.append((one.student_ids, completion))
    total, count = torch.zeros(()), 0
    for prompt, completion in drawn:
        ids = [*prompt, *completion.token_ids]
        logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
        log_p = torch.log_softmax(logits, dim=-1)
        own = log_p[range(len(completion.token_ids)), list(completion.token_ids)]
        half = max(1, int(0.5 * len(own) + 0.5))
        places = own.argsort(stable=True)[:half]
        h = -(log_p.exp() * log_p).sum(-1).detach()[places]
        spread = (h.max() - h.min()) or 1.0
        total = total + ((0.5 + (h - h.min()) / (2 * spread)) * own[places]).sum()
        count += half
    assert rows[0]["num_loss_tokens"] == count
    assert rows[0]["loss"] == pytest.approx(float(total.detach()) / count, rel=1e-4)
    (total / count).backward()
    for new, old in zip(student.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-4, atol=1e-6)


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "8", steps=2, **SGD)
    cut, _ = trained(tmp_path / "2", steps=2, micro_batch_size=2, **SGD)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


LEARNING = {"learning_rate": 3e-3, "batch_size": 16, "micro_batch_size": 16}


def entropies(rows: list[dict]) -> tuple[float, float]:
    """Of the chosen tokens over the first five steps, and over the last five."""
    first, last = ([row["student_entropy"] for row in part] for part in (rows[:5], rows[-5:]))
    return sum(first) / 5, sum(last) / 5


@pytest.mark.slow
def test_the_model_grows_surer_and_not_where_tokens_are_chosen_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = entropies(trained(tmp_path / "true", steps=120, **LEARNING)[1])
    assert last < 0.8 * first

    state = random.Random(0)
    monkeypatch.setattr(
        opsa,
        "least_likely",
        lambda log_probs, fraction: least_likely([state.random() for _ in log_probs], fraction),
    )
    first, last = entropies(trained(tmp_path / "random", steps=120, **LEARNING)[1])
    assert last > 0.9 * first
