"""How much memory training will take, before it begins.

A step's own code (sampling, teacher, student, loss, backward pass) is run on tensors that have shapes and no contents
(torch's FakeTensorMode), at the longest prompts and the longest completions there can be; what is alive is counted
allocation by allocation. So every architecture, loss and adapter is counted as its code is. Left out: what libraries
allocate inside one operation, and what an allocator keeps back.
"""

import gc
import logging
import math
import weakref
from collections.abc import Callable, Iterator
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

from neuron_opsd.config import Config, TrainingSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import sample_tokens
from neuron_opsd.model.load import CausalLM, load_model_config
from neuron_opsd.model.shared_prompt import scoring_states
from neuron_opsd.model.token_loss import sum_in_chunks, token_loss
from neuron_opsd.model.unembedding import backbone, head_tensors, last_place, logits_from_hidden
from neuron_opsd.training.train import trainable

logger = logging.getLogger(__name__)


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
        """One line for the log."""
        parts = {
            "weights": self.weights,
            "teacher": self.teacher,
            "optimiser": self.optimiser,
            "sampling": self.sampling,
            "learning": self.learning,
        }
        listed = ", ".join(f"{name} {_size(value)}" for name, value in parts.items())
        return f"about {_size(self.peak)} of memory at the peak ({listed})"


def _size(value: int) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def describe_memory(config: Config, student_prompt: int, teacher_prompt: int) -> str:
    """The estimate of one run as a line; where an architecture cannot be counted, the reason."""
    training = config.training
    if training.quantization != "none":
        return "memory is not estimated for quantised weights"
    drawn = training.completions_per_step() * training.rollout_steps
    lengths = Lengths(student_prompt, teacher_prompt, min(config.rollouts.batch_size, drawn))
    try:
        dtype = getattr(torch, config.training.dtype)
        estimate = estimate_memory(load_model_config(config.model), dtype, training, lengths)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        # The estimate is a courtesy: an architecture that cannot run without contents still trains.
        return f"memory is not estimated: {type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return (
        f"{estimate.describe()}, for prompts of up to {student_prompt} (student) and {teacher_prompt} (teacher) tokens "
        f"and completions of {training.max_new_tokens}"
    )


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
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        student = trainable(AutoModelForCausalLM.from_config(config, dtype=dtype), settings, seed=0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_shapes(student)
        if settings.trainer.get("gradient_checkpointing"):
            student.gradient_checkpointing_enable({"use_reentrant": False})
        trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
        has_copy = settings.teacher == "ema" or (settings.teacher == "frozen" and settings.method == "full")
        return MemoryEstimate(
            weights=sum(p.numel() * p.element_size() for p in student.parameters()),
            teacher=4 * trained * has_copy,
            optimiser=2 * 4 * trained,
            sampling=_peak_of_sampling(student, settings, lengths),
            learning=_peak_of_learning(student, settings, lengths),
        )


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
    gc.collect()  # what only cycles keep alive is not there when a step runs after others
    with _Allocations(student) as allocations:
        yield allocations


def _peak_of_sampling(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> int:
    """Prompts, then the last token, when the cache is as long as it gets."""
    student.eval()
    rows, prompt, new = lengths.sampling_rows, lengths.student_prompt, settings.max_new_tokens
    with torch.no_grad():
        with _counted(student) as prefill:
            cache = DynamicCache(config=student.config)
            num_prompts = math.ceil(rows / settings.num_rollouts)
            student(
                **_inputs(num_prompts, prompt),
                past_key_values=cache,
                logits_to_keep=last_place(student.device),
            )
        cache = DynamicCache(config=student.config)
        with _counted(student) as decode:
            backbone(student)(**_inputs(rows, prompt + new - 2), past_key_values=cache, use_cache=True)
            decode.peak = decode.now
            one = {**_inputs(rows, prompt + new - 1), "input_ids": _inputs(rows, 1)["input_ids"]}
            positions = torch.zeros(rows, 1, dtype=torch.long)
            logits = student(**one, position_ids=positions, past_key_values=cache).logits[:, -1]
            sample_tokens(logits, torch.zeros(rows), Sampling(temperature=1.0, max_new_tokens=1))
    return max(prefill.peak, decode.peak)


def _peak_of_learning(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> int:
    """Micro-batches of a step; where there are several, gradients of the first lie there during the next."""
    several = settings.completions_per_step() > settings.micro_batch_size
    student.train()
    with _counted(student) as allocations:
        for _ in range(2 if several else 1):
            _micro_batch(student, settings, lengths)
    return allocations.peak


def _micro_batch(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> None:
    """What `OpsdTrainer.compute_loss` does, and the backward pass, on rows that are all as long as can be."""
    rows, new = settings.micro_batch_size, settings.max_new_tokens
    with _autocast(settings):
        teacher_hidden = _teacher_states(student, settings, lengths)
        hidden = _states(student, rows, lengths.student_prompt, new)

        def logits(states: Tensor) -> Tensor:
            return logits_from_hidden(student, states)

        total, _ = sum_in_chunks(
            hidden,
            teacher_hidden,
            student_logits=logits,
            teacher_logits=logits,
            loss=token_loss(settings),
            tokens=torch.zeros(rows * new, dtype=torch.long),
            chunk_tokens=settings.loss_chunk_tokens,
            head=head_tensors(student),
        )
    del teacher_hidden
    total.backward()


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
    """Those that predict each completion token, as `predicting_states` gives them."""
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
    """Of sampling, where rows of unequal length are padded on the left and so need a mask."""
    ids = torch.zeros(rows, num_tokens, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _autocast(settings: TrainingSettings) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(settings.trainer.get("bf16")))
