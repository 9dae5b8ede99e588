"""How much memory a training step takes, before there is one.

A step's own code (sampling, teacher, student, loss, backward pass) is run on tensors that have shapes and no contents
(torch's FakeTensorMode), at the longest prompts and the longest completions there can be; what is alive is counted
allocation by allocation. So every architecture, loss and adapter is counted as its code is. Layers are alike, so two
and three of them are counted, and the rest is a straight line. Left out: what libraries allocate inside one operation,
and what an allocator keeps back.
"""

import copy
import functools
import gc
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import PREFILL_TOKENS, sample_tokens
from neuron_opsd.engines.shared_prompts import may_share_prompts
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.shared_prompt import scoring_states
from neuron_opsd.model.token_loss import sum_in_chunks, token_loss
from neuron_opsd.model.unembedding import backbone, head_tensors, last_place, logits_from_hidden
from neuron_opsd.training.train import trainable

DEPTHS = (2, 3)
# A number in 4 bits, a byte for each 64 of them, and a float32 for each 256 of those bytes (2305.14314).
BYTES_OF_4_BITS = 0.5 + (1 + 4 / 256) / 64


@dataclass(frozen=True, slots=True)
class Lengths:
    """What decides the size of a step, at its worst."""

    student_prompt: int
    teacher_prompt: int
    sampling_rows: int  # completions that are decoded together


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes. The first three are there throughout; sampling and learning follow one another, so the larger counts."""

    weights: int
    teacher: int
    optimiser: int
    sampling: int
    learning: int

    @property
    def peak(self) -> int:
        """The most there is at any moment."""
        return self.weights + self.teacher + self.optimiser + max(self.sampling, self.learning)

    def describe(self) -> str:
        """Every part, in words."""
        parts = {
            "weights": self.weights,
            "teacher": self.teacher,
            "optimiser": self.optimiser,
            "sampling": self.sampling,
            "learning": self.learning,
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
    if not settings.fine_tunes:
        alike = settings.model_copy(update={"micro_batch_size": 1, "trainer": {}})  # sampling reads neither
        sampling = max(
            _count_own_sampling(config, dtype, alike, lengths.student_prompt, lengths.sampling_rows)
        )
    return MemoryEstimate(weights, teacher, optimiser, sampling=sampling, learning=max(phases))


@counted_once
def _count_own_sampling(
    config: PretrainedConfig, dtype: torch.dtype, settings: TrainingSettings, prompt: int, rows: int
) -> list[int]:
    """Both phases of the student's sampling."""

    def count(config: PretrainedConfig) -> list[int]:
        student = trainable(_without_contents(config, dtype), settings, seed=0)
        with FakeTensorMode(allow_non_fake_inputs=True):
            _give_shapes(student)
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
    student = trainable(_without_contents(config, dtype), settings, seed=0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_shapes(student)
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
        model = _without_contents(config, dtype)
        with FakeTensorMode(allow_non_fake_inputs=True):
            _give_shapes(model)
            weights, _ = _bytes_of_weights(model, is_4bit=False)
            return [weights, *peaks_of_sampling(model, num_prompts, rows, prompt, new)]

    weights, prefill, decode = by_depth(config, count)
    return weights, max(prefill, decode)


@counted_once
def count_weights(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the weights of a model that only answers."""

    def count(config: PretrainedConfig) -> list[int]:
        return [_bytes_of_weights(_without_contents(config, dtype), is_4bit=False)[0]]

    return by_depth(config, count)[0]


def by_depth(config: PretrainedConfig, count: Callable[[PretrainedConfig], Sequence[int]]) -> list[int]:
    """Numbers of a model of many like layers, from two small depths: each grows by the same with every layer."""
    layers, (low, high) = config.get_text_config().num_hidden_layers, DEPTHS
    if layers <= high:
        return list(count(config))
    pairs = zip(count(_cut(config, low)), count(_cut(config, high)), strict=True)
    return [few + (more - few) * (layers - low) // (high - low) for few, more in pairs]


def _cut(config: PretrainedConfig, depth: int) -> PretrainedConfig:
    short = copy.deepcopy(config)
    text = short.get_text_config()
    text.num_hidden_layers = depth
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:depth]
    return short


def _without_contents(config: PretrainedConfig, dtype: torch.dtype) -> CausalLM:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _bytes_of_weights(model: CausalLM, *, is_4bit: bool) -> tuple[int, int]:
    """Bytes of all weights; and of the largest matrix once it is unpacked from 4 bits, as it is when it multiplies."""
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


def _give_shapes(model: nn.Module) -> None:
    """Replace a meta model's tensors, tied ones by one, with tensors that look as if they lay on a processor."""
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        tables: tuple[Any, ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None and tensor not in made:
                    shaped = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[tensor] = nn.Parameter(shaped, tensor.requires_grad) if is_parameter else shaped
                if tensor is not None:
                    table[name] = made[tensor]


class _Allocations(TorchDispatchMode):
    """Bytes of the tensors that are alive now and at the most, of those made since it was entered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.phases: list[int] = []
        self.known = WeakIdKeyDictionary()
        for tensor in [*model.parameters(), *model.buffers()]:
            self.known[tensor.untyped_storage()] = None

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def end_phase(self) -> None:
        """Note the peak since the phase before."""
        self.phases.append(self.peak)
        self.peak = self.now

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        self.known[storage] = None
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self.now -= size


@contextmanager
def _counted(student: CausalLM) -> Iterator[_Allocations]:
    gc.collect(1)  # what only cycles keep alive is not there when a step runs after others
    with _Allocations(student) as allocations:
        yield allocations


def peaks_of_sampling(model: CausalLM, num_prompts: int, rows: int, prompt: int, new: int) -> list[int]:
    """Peaks of reading the prompts, and of the last token, when the cache is longest.

    The cache holds a prompt once where it can be shared. Here each row has its part of it.
    """
    in_one_pass = min(num_prompts, max(1, PREFILL_TOKENS // prompt))
    is_shared = rows > num_prompts and may_share_prompts(model.config)
    held = new + (math.ceil(num_prompts * prompt / rows) if is_shared else prompt)
    model.eval()
    with torch.no_grad():
        with _counted(model) as prefill:
            cache = DynamicCache(config=model.config)
            model(
                **_inputs(in_one_pass, prompt),
                past_key_values=cache,
                logits_to_keep=last_place(model.device),
            )
        cache = DynamicCache(config=model.config)
        with _counted(model) as decode:
            backbone(model)(**_inputs(rows, max(held - 2, 1)), past_key_values=cache, use_cache=True)
            decode.peak = decode.now
            one = {**_inputs(rows, max(held - 1, 2)), "input_ids": _inputs(rows, 1)["input_ids"]}
            positions = torch.zeros(rows, 1, dtype=torch.long)
            logits = model(**one, position_ids=positions, past_key_values=cache).logits[:, -1]
            sample_tokens(logits, torch.zeros(rows), Sampling(temperature=1.0, max_new_tokens=1))
    return [prefill.peak, decode.peak]


def peaks_of_learning(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> list[int]:
    """Peaks of each phase of a step's micro-batches. If there are several, the next finds gradients of the first."""
    several = settings.completions_per_step() > settings.micro_batch_size
    student.train()
    with _counted(student) as allocations:
        for _ in range(2 if several else 1):
            if settings.by_trl:
                _micro_batch_of_trl(student, settings, lengths)
            else:
                _micro_batch(student, settings, lengths, allocations)
            allocations.end_phase()
    return allocations.phases


def _micro_batch(
    student: CausalLM, settings: TrainingSettings, lengths: Lengths, allocations: "_Allocations"
) -> None:
    """What `OpsdTrainer.compute_loss` does, and the backward pass, on rows that are all as long as can be."""
    rows, new = settings.micro_batch_size, settings.max_new_tokens
    teacher_hidden = None
    if settings.is_distillation:
        with _autocast(settings):
            teacher_hidden = _teacher_states(student, settings, lengths)
        allocations.end_phase()
    with _autocast(settings):
        hidden = _states(student, rows, lengths.student_prompt, new)
        allocations.end_phase()
        # Chunks are alike, so two of them are counted. The gradient of all other states waits beside them.
        counted = min(2 * settings.loss_chunk_tokens, rows * new)
        waiting = torch.empty_like(hidden[counted:])

        def logits(states: Tensor) -> Tensor:
            return logits_from_hidden(student, states)

        total, _ = sum_in_chunks(
            hidden[:counted],
            (hidden.detach() if teacher_hidden is None else teacher_hidden)[:counted],
            student_logits=logits,
            teacher_logits=logits,
            loss=token_loss(settings),
            tokens=torch.zeros(counted, dtype=torch.long),
            chunk_tokens=settings.loss_chunk_tokens,
            head=head_tensors(student),
        )
        allocations.end_phase()
    del teacher_hidden, waiting
    total.backward()


def _micro_batch_of_trl(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> None:
    """The logits of every completion token at once, their log-probabilities, and the backward pass."""
    rows, new = settings.micro_batch_size, settings.max_new_tokens
    ids = torch.zeros(rows, lengths.student_prompt + new, dtype=torch.long)
    with _autocast(settings):
        if settings.fine_tunes:
            loss = student(input_ids=ids, labels=ids, use_cache=False).loss
        else:
            logits = student(input_ids=ids, use_cache=False, logits_to_keep=new + 1).logits[:, :-1]
            logits = logits / settings.temperature
            chosen = logits.gather(-1, ids[:, -new:, None])[..., 0]
            loss = (chosen - torch.stack([row.logsumexp(dim=-1) for row in logits])).float().sum()
    loss.backward()


@torch.no_grad()
def _teacher_states(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> Tensor:
    """Prompts shared by the rows of a micro-batch are read once, as in training."""
    rows, new = settings.micro_batch_size, settings.max_new_tokens
    group = min(rows, settings.num_rollouts)
    if group > 1:
        prompts = [[row // group] * lengths.teacher_prompt for row in range(rows // group * group)]
        return scoring_states(student, prompts, [[0] * new] * len(prompts))
    return _states(student, rows, lengths.teacher_prompt, new).clone()


def _states(student: CausalLM, rows: int, prompt: int, new: int) -> Tensor:
    """The states that predict each completion token, as `predicting_states` gives them."""
    cache = DynamicCache(config=student.config)
    if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        # Without a cache, transformers reads positions to see whether rows are packed; here there is nothing to read,
        # and it would make a mask.
        cache.layers[:] = [_Forgetful() for _ in cache.layers]
    ids = torch.zeros(rows, prompt + new, dtype=torch.long)
    output = backbone(student)(input_ids=ids, past_key_values=cache, use_cache=False)
    return output.last_hidden_state[:, -new - 1 : -1].flatten(0, 1)


class _Forgetful(DynamicLayer):
    """A cache that keeps nothing."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """What came in."""
        return key_states, value_states


def _inputs(rows: int, num_tokens: int) -> dict[str, Tensor]:
    """Inputs of sampling. Rows of unequal length are padded on the left, and so need a mask."""
    ids = torch.zeros(rows, num_tokens, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _autocast(settings: TrainingSettings) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(settings.trainer.get("bf16")))
