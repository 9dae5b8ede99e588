"""Models that have shapes and no contents, and the bytes that are allocated while one runs."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, PretrainedConfig

from neuron_opsd.model.load import CausalLM


def without_contents(config: PretrainedConfig, dtype: torch.dtype) -> CausalLM:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def give_shapes(model: nn.Module) -> None:
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


class Allocations(TorchDispatchMode):
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
def counted(student: CausalLM) -> Iterator[Allocations]:
    gc.collect(1)  # what only cycles keep alive is not there when a step runs after others
    with Allocations(student) as allocations:
        yield allocations
