"""The memory estimate against what two training steps take, and the parts that can be worked out by hand."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import MistralConfig

from helpers import build_tiny_model
from neuron_opsd import progress
from neuron_opsd.memory import count
from neuron_opsd.memory.allocations import Allocations
from neuron_opsd.memory.count import MemoryEstimate, by_depth, estimate_memory
from neuron_opsd.memory.passes import Lengths, peaks_of_learning, peaks_of_sampling
from neuron_opsd.model.trainable import trainable
from neuron_opsd.progress import Tracker
from neuron_opsd.training.progress import ProgressCallback
from training.training_runs import settings, tiny_train

LENGTHS = Lengths(student_prompt=10, teacher_prompt=20, sampling_rows=4)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["deep, lora", "wide vocabulary, full"])
def test_within_a_quarter_of_what_a_process_takes(shape):
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(here.parent), os.environ.get("PYTHONPATH")])),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # the allocator gives freed memory back, so that what is measured is used
    }
    done = subprocess.run(
        [sys.executable, str(here / "memory_process.py"), shape],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    measured, estimated = map(float, done.stdout.split()[-2:])
    assert measured > 150  # MB: enough for small things not to count
    assert estimated == pytest.approx(measured, rel=0.25)


def made(**changes) -> MemoryEstimate:
    """Of one layer: operations on tensors without contents are slow."""
    return estimate_memory(build_tiny_model(num_layers=1).config, torch.float32, settings(**changes), LENGTHS)


def test_parts_by_hand():
    count = sum(parameter.numel() for parameter in build_tiny_model(num_layers=1).parameters())
    full = made(teacher="ema")
    assert (full.weights, full.teacher, full.optimiser) == (4 * count, 4 * count, 8 * count)
    assert full.learning > 4 * count  # gradients and more
    assert made(teacher="live").teacher == 0
    lora = made(method="lora", teacher="frozen")
    assert lora.teacher == 0  # the model without its adapter
    assert lora.optimiser < full.optimiser / 2


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora"},
        {"method": "full", "num_rollouts": 4, "loss_chunk_tokens": 1000},
        {"method": "full", "micro_batch_size": 2, "support": "teacher_top_k", "top_k": 8},
    ],
)
def test_tensors_without_contents_take_what_real_ones_do(changes):
    chosen = settings(**changes)
    real = trainable(build_tiny_model(), chosen, seed=0)
    found = estimate_memory(build_tiny_model().config, torch.float32, chosen, LENGTHS)
    assert found.learning == pytest.approx(max(peaks_of_learning(real, chosen, LENGTHS)), rel=0.02)
    rows, prompt, new = LENGTHS.sampling_rows, LENGTHS.student_prompt, chosen.max_new_tokens
    sampling = peaks_of_sampling(real, rows // chosen.num_rollouts, rows, prompt, new)
    assert found.sampling == pytest.approx(max(sampling), rel=0.02)


def test_what_is_alive_is_counted():
    model = torch.nn.Linear(2, 2)
    with Allocations(model) as allocations:
        first = torch.zeros(100)  # 400 bytes
        second = first + 1
        view = second[:50]  # nothing new
        del first
        third = torch.ones(10)
        assert (allocations.now, allocations.peak) == (440, 800)
        model.weight.detach().mul_(1)  # was there before
        del second, view, third
    assert allocations.now == 0


def test_kept_contexts_are_counted_up_to_their_limit():
    config = build_tiny_model(num_layers=1).config  # two heads of 8 for keys: 128 bytes a token
    long = replace(LENGTHS, teacher_prompt=2_000, kept_contexts=5)
    for megabytes, found in ((1000, 5 * 256_000), (1, 1_000_000), (0, 0)):
        chosen = settings(keep_prefixes=megabytes)
        estimate = estimate_memory(config, torch.float32, chosen, long)
        assert estimate.contexts == found
        assert estimate.peak == replace(estimate, contexts=0).peak + found
        assert ("kept contexts" in estimate.describe()) == bool(found)
    sliding = MistralConfig(**{**config.to_dict(), "sliding_window": 16})
    assert estimate_memory(sliding, torch.float32, settings(), long).contexts == 0


def test_gradients_of_the_micro_batch_before_are_there_too():
    assert made(micro_batch_size=2).learning < made(micro_batch_size=8).learning
    assert made(micro_batch_size=2).learning > made(micro_batch_size=2, batch_size=2).learning


def test_gradient_checkpointing_takes_less():
    less = made(trainer={"gradient_checkpointing": True}, micro_batch_size=8, max_new_tokens=100)
    assert less.learning < made(micro_batch_size=8, max_new_tokens=100).learning


def test_the_larger_of_what_follows_one_another_counts():
    found = MemoryEstimate(weights=10, teacher=1, optimiser=2, sampling=9, learning=3)
    assert found.peak == 22
    assert "weights 0 MB" in found.describe()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora", "trainer": {"gradient_checkpointing": True, "bf16": True}},
        {"method": "full"},
        {"method": "lora", "objective": "majority_sft"},
        {"method": "lora", "objective": "majority_reward", "num_rollouts": 2},
    ],
)
def test_a_deep_model_is_the_straight_line_of_two_shallow_ones(monkeypatch, changes):
    for name in ("_count_learning", "_count_own_sampling"):  # nothing is remembered, whatever DEPTHS were
        monkeypatch.setattr(count, name, getattr(count, name).__wrapped__)
    config = build_tiny_model().config
    config.num_hidden_layers = 4
    chosen = settings(**changes)
    line = estimate_memory(config, torch.float32, chosen, LENGTHS)
    monkeypatch.setattr(count, "DEPTHS", (3, 4))  # all layers are counted
    assert line.peak == pytest.approx(estimate_memory(config, torch.float32, chosen, LENGTHS).peak, rel=0.01)
    assert by_depth(config, lambda some: [some.num_hidden_layers]) == [4]


def test_rivals_hold_the_logits_of_every_token():
    ours, theirs = made(method="lora"), made(method="lora", objective="majority_sft")
    assert theirs.learning > ours.learning
    assert (theirs.teacher, theirs.sampling) == (0, 0)
    group = {"method": "lora", "objective": "majority_reward", "num_rollouts": 2}
    assert made(**group).sampling > 0


def test_weights_in_four_bits_by_hand():
    model = build_tiny_model(num_layers=1)
    count = sum(p.numel() for name, p in model.named_parameters() if "_proj" in name)
    rest = sum(p.numel() for name, p in model.named_parameters() if "_proj" not in name)
    whole = made(method="lora", save="adapter")
    packed = made(method="lora", save="adapter", quantization="4bit")
    adapter = whole.weights - 4 * (count + rest)
    assert packed.weights == pytest.approx(0.5159 * count + 4 * rest + adapter, rel=1e-3)
    assert packed.learning == whole.learning + 2 * 32 * 48  # the largest matrix, unpacked to bfloat16


@pytest.mark.slow
def test_after_two_steps_the_time_left_is_known_within_a_half(tmp_path, monkeypatch):
    """By a clock of the tokens that the model reads and learns from: no machine is too busy for it."""
    model, clock = build_tiny_model(spread=0.25), _TokenClock()
    model.model.register_forward_pre_hook(clock.advance, with_kwargs=True)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock))
    tracker = _TimedTracker(clock, "train", 14, "steps")
    callback = ProgressCallback(tracker)
    tiny_train(tmp_path / "timed", model=model, steps=14, max_new_tokens=40, callbacks=[callback])
    estimated, at = tracker.told
    assert 2 / 3 < estimated / (clock() - at) < 3 / 2


class _TokenClock:
    """How many tokens have gone through the model. One that is learned from counts as three."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, module, arguments, named) -> None:
        self.now += named["input_ids"].numel() * (3 if torch.is_grad_enabled() else 1)


class _TimedTracker(Tracker):
    def __init__(self, clock: _TokenClock, *arguments) -> None:
        self.clock = clock
        super().__init__(*arguments)

    def describe_left(self) -> str:
        self.told = (self.seconds_left(), self.clock())
        return super().describe_left()
