"""U-OPSD and CANON: a model that reads its own majority answer comes to give it; reading others it does not.

The model of `test_learning.py` copies a value that its prompt states, and knows none. Its own guesses vote.
"""

import random

import pytest
import torch
from test_learning import KEYS, NUM_KEYS, VALUES, ask, model_that_can_copy, tell
from training_runs import tiny_train

from neuron_opsd.records import Rollout
from neuron_opsd.rollouts.pseudo_label import likeliest_agreeing
from neuron_opsd.training.items import TrainingItem

pytestmark = pytest.mark.slow
OPTIONS = {
    "batch_size": 16, "micro_batch_size": 16, "max_new_tokens": 2, "learning_rate": 1e-3, "teacher": "frozen",
    "save_steps": 1000, "guard_rails": {"enabled": False},
}  # fmt: skip


@torch.no_grad()
def shares(model: torch.nn.Module) -> torch.Tensor:
    """P(value | key), exactly; shape (keys, vocabulary)."""
    logits = model.eval()(input_ids=torch.tensor([ask(key) for key in KEYS])).logits[:, -1]
    return torch.softmax(logits.float(), dim=-1)


def read(item: TrainingItem) -> str | None:
    value = item.completion_ids[0]
    return str(value) if value in VALUES else None


def group_item(seed: int, num_rollouts: int):
    def item(place: int) -> TrainingItem:
        key = list(KEYS)[place // num_rollouts % NUM_KEYS]
        return TrainingItem(str(key), tuple(ask(key)), tuple(ask(key)), seed=100_000 * seed + place)

    return item


def u_opsd(folder, seed: int, *, shuffled: bool) -> float:
    """By how much the likeliest answer's probability rose, in the mean over keys."""
    state, model = random.Random(seed), model_that_can_copy(seed)
    before = shares(model).max(dim=1).values.mean()

    def prompt(item: TrainingItem, completion_ids) -> tuple[int, ...]:
        value = state.choice(VALUES) if shuffled else completion_ids[0]
        return (*tell(int(item.question_id), value), *item.student_ids)

    student = tiny_train(
        folder, steps=30, item=group_item(seed, 8), model=model, read_answer=read, group_prompt=prompt,
        **OPTIONS, num_rollouts=8, distil="disagreeing", divergence="forward_kl",
    ).student  # fmt: skip
    return float(shares(student).max(dim=1).values.mean() - before)


@pytest.mark.parametrize("seed", [0, 1])
def test_u_opsd_makes_the_model_agree_with_itself(tmp_path, seed):
    assert u_opsd(tmp_path / "true", seed, shuffled=False) > 0.3
    assert u_opsd(tmp_path / "shuffled", seed, shuffled=True) < 0.15


def own_rollouts(model: torch.nn.Module, seed: int) -> list[Rollout]:
    """Eight sampled answers to each key."""
    generator, found = torch.Generator().manual_seed(seed), shares(model)
    return [
        Rollout(
            question_id=str(key), rollout_index=r, choice_order=(), prompt_ids=tuple(ask(key)),
            completion_ids=(value,), token_log_probs=(float(row[value].log()),), finish_reason="stop", reply="",
            answer=str(value) if value in VALUES else None,
        )
        for key, row in zip(KEYS, found, strict=True)
        for r, value in enumerate(torch.multinomial(row, 8, replacement=True, generator=generator).tolist())
    ]  # fmt: skip


def canon(folder, seed: int, *, shuffled: bool) -> float:
    """By how much the probability of the pseudo-labels rose, in the mean over keys."""
    model = model_that_can_copy(seed)
    label = {
        int(key): r.completion_ids[0] for key, r in likeliest_agreeing(own_rollouts(model, seed)).items()
    }
    keys, state = sorted(label), random.Random(seed)
    before = shares(model)

    def item(place: int) -> TrainingItem:
        key = keys[place % len(keys)]
        told = state.choice(VALUES) if shuffled else label[key]
        return TrainingItem(
            str(key), tuple(ask(key)), (*tell(key, told), *ask(key)), seed=1000 * seed + place
        )

    student = tiny_train(folder, steps=60, item=item, model=model, **OPTIONS, divergence="jsd").student
    gained = shares(student) - before
    return float(sum(gained[key - KEYS[0], label[key]] for key in keys) / len(keys))


@pytest.mark.parametrize("seed", [0, 1])
def test_canon_makes_the_model_give_its_majority_answers(tmp_path, seed):
    assert canon(tmp_path / "true", seed, shuffled=False) > 0.3
    assert canon(tmp_path / "shuffled", seed, shuffled=True) < 0.15
