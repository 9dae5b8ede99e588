"""Training runs of a tiny model, small enough for a test."""

import json
import random
from dataclasses import replace
from pathlib import Path

import torch

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.config import LoraSettings, TrainingSettings
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.order_average import OrderView
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.train import Trained, train

TOKENIZER = build_tiny_tokenizer()


def settings(**changes) -> TrainingSettings:
    return TrainingSettings(
        **{
            "method": "full",
            "lora": LoraSettings(rank=4, alpha=8),
            "batch_size": 8,
            "micro_batch_size": 8,
            "max_new_tokens": 6,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "save_steps": 2,
            "loss_chunk_tokens": 16,
            **changes,
        }
    )


def make_item(place: int) -> TrainingItem:
    """A question of 3 to 14 tokens; the teacher reads 1 to 20 more before it."""
    state = random.Random(place)
    draw = lambda low, high: tuple(state.randrange(3, 259) for _ in range(state.randint(low, high)))  # noqa: E731
    question = draw(3, 14)
    return TrainingItem(f"q{place}", question, draw(1, 20) + question, seed=1000 + place)


A, B, C = 65, 66, 67


def ordered_item(place: int) -> TrainingItem:
    """Two or three orders of a question, which end differently."""
    item = make_item(place)
    start, end = item.teacher_ids[:-2], item.teacher_ids[-2:]
    views = (
        OrderView(item.teacher_ids),
        OrderView((*start, *end[::-1], 7), {A: B, B: A}),
        OrderView((*start, 9, *end), {A: C, B: A, C: B}),
    )
    return replace(item, views=views[: 2 + place % 2])


def grouped_item(num_rollouts: int, item=make_item):
    """Places that follow one another share a question, and differ in their seed."""

    def make(place: int) -> TrainingItem:
        shared = item(place // num_rollouts)
        return TrainingItem(shared.question_id, shared.student_ids, shared.teacher_ids, seed=5000 + place)

    return make


def tiny_train(
    folder: Path,
    *,
    steps: int,
    item=make_item,
    seed: int = 0,
    entropy_at: float = 1.0,
    spread: float = 0.25,
    ends: tuple[int, ...] = (2,),
    num_layers: int = 2,
    model=None,
    read_answer=None,
    pseudo_labels=None,
    group_prompt=None,
    end_ids=(),
    on_first_batch=lambda item: None,
    callbacks=(),
    make_engine=lambda student: HFEngine(student, TOKENIZER),
    **changes,
) -> Trained:
    """Train a tiny model whose replies end with one of `ends`; `changes` are settings of `training.*`."""
    chosen = settings(**changes)
    if model is None:
        model = build_tiny_model(spread=spread, num_layers=num_layers)
        model.generation_config.eos_token_id = list(ends)
    return train(
        model,
        make_engine,
        LazyItems(steps * chosen.completions_per_step(), item),
        chosen,
        folder=folder,
        num_steps=steps,
        seed=seed,
        entropy_at=entropy_at,
        read_answer=read_answer,
        pseudo_labels=pseudo_labels,
        group_prompt=group_prompt,
        end_ids=end_ids,
        on_first_batch=on_first_batch,
        callbacks=callbacks,
    )


def run(folder: Path, **options) -> torch.nn.Module:
    """The student of `tiny_train`."""
    return tiny_train(folder, **options).student


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_bits(first: torch.nn.Module, second: torch.nn.Module) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def relative_difference(first: torch.nn.Module, second: torch.nn.Module) -> float:
    """Norm of the difference of all weights / norm of the first."""
    a, b = weights(first), weights(second)
    gap = sum((a[name].double() - b[name].double()).square().sum() for name in a)
    return float((gap / sum(value.double().square().sum() for value in a.values())) ** 0.5)


# Completions of unequal length and plain SGD, whose steps are proportional to the gradients that are compared.
EXACT = {
    "learning_rate": 0.05,
    "max_new_tokens": 16,
    "ends": (2, *range(100, 110)),
    "max_grad_norm": 1e6,
    "teacher": "ema",
    "ema_rate": 0.3,
    "trainer": {"optim": "sgd"},
}


def _answer(item: TrainingItem) -> str | None:
    return [None, "A", "B"][item.completion_ids[0] % 3]


def groups_and_votes(folder: Path, *, method: str) -> torch.nn.Module:
    """Groups, votes and stale completions that processes share; some micro-batches carry no loss at all."""
    options = {**EXACT, "micro_batch_size": 2, "num_rollouts": 2, "distil": "disagreeing", "rollout_steps": 2}
    return run(folder, steps=3, item=grouped_item(2), read_answer=_answer, method=method, **options)


def own_group(folder: Path) -> torch.nn.Module:
    """The teacher reads an agreeing completion of the step's own group, which another process may have sampled."""
    options = {**EXACT, "micro_batch_size": 2, "num_rollouts": 8, "batch_size": 1, "distil": "disagreeing"}
    return run(
        folder, steps=3, item=grouped_item(8), read_answer=_answer,
        group_prompt=lambda item, ids: (7, *ids, *item.student_ids), **options,
    )  # fmt: skip


def orders_at_a_temperature(folder: Path, *, method: str) -> torch.nn.Module:
    """Kept first tokens of a frozen teacher's orders, and the temperature that the main process measured."""
    teacher = {"teacher": "frozen", "teacher_orders": 3, "teacher_entropy": "matched", "max_new_tokens": 1}
    options = {**EXACT, "micro_batch_size": 2, "method": method, "read_answer": _answer, **teacher}
    return run(folder, steps=3, item=lambda place: ordered_item(place % 12), **options)


def with_adam(folder: Path, *, steps: int) -> torch.nn.Module:
    """Adam, whose moments a checkpoint must hold; a large epsilon, because small moments would enlarge rounding."""
    trainer = {"optim": "adamw_torch", "adam_epsilon": 0.01}
    return run(
        folder, steps=steps, **{**EXACT, "learning_rate": 1e-3, "micro_batch_size": 2, "trainer": trainer}
    )


# What one process and two must do alike, by name.
RUNS = {
    "full": lambda folder: groups_and_votes(folder, method="full"),
    "lora": lambda folder: groups_and_votes(folder, method="lora"),
    "own group": own_group,
    "orders": lambda folder: orders_at_a_temperature(folder, method="full"),
    "orders, lora": lambda folder: orders_at_a_temperature(folder, method="lora"),
    "adam, 2 steps": lambda folder: with_adam(folder, steps=2),
    "adam, 4 steps": lambda folder: with_adam(folder, steps=4),
}
