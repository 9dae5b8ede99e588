"""Learning, not only running: what the context told the teacher, the student comes to know without it.

A secret table gives each of 16 keys a value. A tiny model, trained from scratch, copies a value that its prompt
states and knows no table. The teacher reads `key value` before each question; distilled, the student answers without
it. Where the contexts state values at random, there is nothing to learn, and it learns nothing.

The teacher is frozen: so small a model, all of whose weights move by large steps, forgets how to copy while it learns
the table, and a moving average follows it there (measured: accuracy with context .12 to .88 after 150 steps).
"""

import random

import pytest
import torch
from training_runs import tiny_train
from transformers import LlamaConfig, LlamaForCausalLM

from neuron_opsd.training.items import TrainingItem

NUM_KEYS = 16
END, CONTEXT, QUESTION, ANSWER = 2, 3, 4, 5
KEYS, VALUES = range(8, 8 + NUM_KEYS), range(24, 24 + NUM_KEYS)


def ask(key: int) -> list[int]:
    return [QUESTION, key, ANSWER]


def tell(key: int, value: int) -> list[int]:
    return [CONTEXT, key, value]


def model_that_can_copy(seed: int) -> LlamaForCausalLM:
    """From scratch on random tables: with a context it copies the value, without one it can only guess."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=32, initializer_range=0.1, pad_token_id=0, bos_token_id=1,
        eos_token_id=END,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    state = random.Random(seed)
    for step in range(240):
        batch = []
        for _ in range(32):
            key, value = state.choice(KEYS), state.choice(VALUES)
            batch.append([*(tell(key, value) if step % 2 else []), *ask(key), value, END])
        ids = torch.tensor(batch)
        labels = ids.clone()
        labels[:, :-2] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@torch.no_grad()
def accuracy(model: torch.nn.Module, table: dict[int, int], *, with_context: bool) -> float:
    """Share of keys whose likeliest answer is the table's."""
    prompts = [[*(tell(key, value) if with_context else []), *ask(key)] for key, value in table.items()]
    found = model(input_ids=torch.tensor(prompts)).logits[:, -1].argmax(-1).tolist()
    return sum(a == b for a, b in zip(found, table.values(), strict=True)) / len(table)


def distil(folder, seed: int, table: dict[int, int], *, shuffled: bool) -> tuple[float, float, float]:
    """Accuracy with context before, and without it before and after."""
    model = model_that_can_copy(seed)
    before = accuracy(model, table, with_context=True), accuracy(model, table, with_context=False)

    def item(place: int) -> TrainingItem:
        state = random.Random(1000 * seed + place)
        key = list(KEYS)[place % NUM_KEYS]
        value = state.choice(VALUES) if shuffled else table[key]
        return TrainingItem(
            str(key), tuple(ask(key)), (*tell(key, value), *ask(key)), seed=state.getrandbits(32)
        )

    student = tiny_train(
        folder, steps=90, item=item, model=model, batch_size=16, micro_batch_size=16, max_new_tokens=2,
        learning_rate=2e-3, teacher="frozen", save_steps=1000, guard_rails={"enabled": False},
    ).student  # fmt: skip
    return *before, accuracy(student.eval(), table, with_context=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_student_learns_to_do_without_the_context(tmp_path, seed):
    values = list(VALUES)
    random.Random(seed).shuffle(values)
    table = dict(zip(KEYS, values, strict=True))
    with_context, without, after = distil(tmp_path / "true", seed, table, shuffled=False)
    assert with_context > 0.95
    assert without < 0.25
    assert after >= 0.9 * with_context
    *_, control = distil(tmp_path / "shuffled", seed, table, shuffled=True)
    assert control < 0.25
