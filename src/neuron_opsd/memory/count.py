"""How much memory a training step or a pass of sampling takes, before there is one.

A step's own code (sampling, teacher, student, loss, backward pass) is run on tensors that have shapes and no contents
(torch's FakeTensorMode), at the longest prompts and completions. What is alive is counted allocation by allocation. So
every architecture, loss and adapter is counted as its code is. Layers are alike, so two and three of them are counted,
and the rest is a straight line. Left out: what libraries allocate inside one operation, and what an allocator keeps
back.
"""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from neuron_opsd.config import TrainingSettings
from neuron_opsd.memory.allocations import give_shapes, without_contents
from neuron_opsd.memory.passes import Lengths, peaks_of_learning, peaks_of_reading, peaks_of_sampling
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.trainable import trainable

DEPTHS = (2, 3)
# A number in 4 bits, a byte for each 64 of them, and a float32 for each 256 of those bytes (2305.14314).
BYTES_OF_4_BITS = 0.5 + (1 + 4 / 256) / 64


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes. Sampling and learning follow one another, so the larger counts. The others are there throughout."""

    weights: int
    teacher: int
    optimiser: int
    sampling: int
    learning: int
    contexts: int = 0

    @property
    def peak(self) -> int:
        """The most there is at any moment."""
        throughout = self.weights + self.teacher + self.optimiser + self.contexts
        return throughout + max(self.sampling, self.learning)

    def describe(self) -> str:
        """Every part, in words."""
        parts = {
            "weights": self.weights,
            "teacher": self.teacher,
            "optimiser": self.optimiser,
            "sampling": self.sampling,
            "learning": self.learning,
            **({"kept contexts": self.contexts} if self.contexts else {}),
        }
        return ", ".join(f"{name} {in_words(value)}" for name, value in parts.items())


def in_words(value: int) -> str:
    """Bytes as people say them."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def counted_once(count: Callable[..., Any]) -> Callable[..., Any]:
    """Remember what was counted, by the contents of the configuration and of all else."""
    found: dict[tuple[str, ...], Any] = {}

    @functools.wraps(count)
    def remembered(config: PretrainedConfig, *args: Any, **kwargs: Any) -> Any:
        key = (config.to_json_string(use_diff=False), repr(args), repr(kwargs))
        if key not in found:
            found[key] = count(config, *args, **kwargs)
        return found[key]

    return remembered


def estimate_memory(
    config: PretrainedConfig, dtype: torch.dtype, settings: TrainingSettings, lengths: Lengths
) -> MemoryEstimate:
    """The estimate for one process.

    Args:
        config: The architecture.
        dtype: Of the weights.
        settings: `training.*`.
        lengths: The longest there are.
    """
    weights, teacher, optimiser, *phases = _count_learning(
        config, dtype, settings, lengths.student_prompt, lengths.teacher_prompt
    )
    sampling = 0
    if not (settings.fine_tunes or settings.draws_while_learning):
        alike = settings.model_copy(update={"micro_batch_size": 1, "trainer": {}})  # sampling reads neither
        sampling = max(
            _count_own_sampling(config, dtype, alike, lengths.student_prompt, lengths.sampling_rows)
        )
    kept = lengths.kept_contexts * lengths.teacher_prompt * cache_bytes(config, dtype)
    contexts = min(kept, settings.keep_prefixes * 1_000_000) if keeps_all(config) else 0
    return MemoryEstimate(
        weights, teacher, optimiser, sampling=sampling, learning=max(phases), contexts=contexts
    )


def cache_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return 2 * text.num_hidden_layers * kv_heads * head_size * dtype.itemsize


def keeps_all(config: PretrainedConfig) -> bool:
    """Whether every layer's cache holds all keys and values."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@counted_once
def _count_own_sampling(
    config: PretrainedConfig, dtype: torch.dtype, settings: TrainingSettings, prompt: int, rows: int
) -> list[int]:
    """Both phases of the student's sampling."""

    def count(config: PretrainedConfig) -> list[int]:
        student = trainable(without_contents(config, dtype), settings, seed=0)
        with FakeTensorMode(allow_non_fake_inputs=True):
            give_shapes(student)
            _, unpacked = _bytes_of_weights(student, is_4bit=settings.quantization == "4bit")
            num_prompts = math.ceil(rows / settings.num_rollouts)
            peaks = peaks_of_sampling(student, num_prompts, rows, prompt, settings.max_new_tokens)
            return [peak + unpacked for peak in peaks]

    return by_depth(config, count)


@counted_once
def _count_learning(
    config: PretrainedConfig,
    dtype: torch.dtype,
    settings: TrainingSettings,
    student_prompt: int,
    teacher_prompt: int,
) -> list[int]:
    """Weights, the teacher's copy, the optimiser, and the phases of learning."""
    lengths = Lengths(student_prompt, teacher_prompt, sampling_rows=0)
    return by_depth(config, lambda some: _count_step(some, dtype, settings, lengths))


def _count_step(
    config: PretrainedConfig, dtype: torch.dtype, settings: TrainingSettings, lengths: Lengths
) -> list[int]:
    student = trainable(without_contents(config, dtype), settings, seed=0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        give_shapes(student)
        if settings.trainer.get("gradient_checkpointing"):
            student.gradient_checkpointing_enable({"use_reentrant": False})
        trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
        has_copy = settings.teacher == "ema" or (settings.teacher == "frozen" and settings.method == "full")
        weights, unpacked = _bytes_of_weights(student, is_4bit=settings.quantization == "4bit")
        working = [peak + unpacked for peak in peaks_of_learning(student, settings, lengths)]
        return [weights, 4 * trained * (settings.is_distillation and has_copy), 2 * 4 * trained, *working]


@counted_once
def count_sampling(
    config: PretrainedConfig, dtype: torch.dtype, *, rows: int, num_prompts: int, prompt: int, new: int
) -> tuple[int, int]:
    """Bytes of the weights of a model that only answers, and of what writing `rows` completions takes beside them."""

    def count(config: PretrainedConfig) -> list[int]:
        model = without_contents(config, dtype)
        with FakeTensorMode(allow_non_fake_inputs=True):
            give_shapes(model)
            weights, _ = _bytes_of_weights(model, is_4bit=False)
            return [weights, *peaks_of_sampling(model, num_prompts, rows, prompt, new)]

    weights, prefill, decode = by_depth(config, count)
    return weights, max(prefill, decode)


@counted_once
def count_reading(config: PretrainedConfig, dtype: torch.dtype, *, rows: int, prompt: int) -> tuple[int, int]:
    """Bytes of the weights of a model that only answers, and of what reading `rows` prompts takes beside them."""

    def count(config: PretrainedConfig) -> list[int]:
        model = without_contents(config, dtype)
        with FakeTensorMode(allow_non_fake_inputs=True):
            give_shapes(model)
            weights, _ = _bytes_of_weights(model, is_4bit=False)
            return [weights, *peaks_of_reading(model, rows, prompt)]

    weights, working = by_depth(config, count)
    return weights, working


@counted_once
def count_weights(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the weights of a model that only answers."""

    def count(config: PretrainedConfig) -> list[int]:
        return [_bytes_of_weights(without_contents(config, dtype), is_4bit=False)[0]]

    return by_depth(config, count)[0]


def by_depth(config: PretrainedConfig, count: Callable[[PretrainedConfig], Sequence[int]]) -> list[int]:
    """Numbers of a model of many like layers, from two small depths: each grows by the same with every layer."""
    layers, (low, high) = config.get_text_config().num_hidden_layers, DEPTHS
    if layers <= high:
        # A copy, because transformers notes the dtype in what it builds from.
        return list(count(_cut(config, layers)))
    pairs = zip(count(_cut(config, low)), count(_cut(config, high)), strict=True)
    return [few + (more - few) * (layers - low) // (high - low) for few, more in pairs]


def _cut(config: PretrainedConfig, depth: int) -> PretrainedConfig:
    short = copy.deepcopy(config)
    text = short.get_text_config()
    text.num_hidden_layers = depth
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:depth]
    return short


def _bytes_of_weights(model: CausalLM, *, is_4bit: bool) -> tuple[int, int]:
    """Bytes of all weights, and of the largest matrix once it is unpacked from 4 bits, as it is when it multiplies."""
    if not is_4bit:
        return sum(p.numel() * p.element_size() for p in model.parameters()), 0
    head = model.get_output_embeddings()
    packed = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad
    }
    rest = sum(p.numel() for p in model.parameters() if id(p) not in packed)  # float32, as PEFT prepares them
    return int(sum(packed.values()) * BYTES_OF_4_BITS + 4 * rest), 2 * max(packed.values(), default=0)
