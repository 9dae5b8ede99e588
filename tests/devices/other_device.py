"""A second device on a machine that has one: tensors that say they are on `meta` and hold real numbers.

An operation on tensors of both devices fails as it would with a GPU; numbers stay those of the CPU, so whole stages run
and can be compared. Allowed, as on a GPU: copies, CPU scalars, and CPU indices into a tensor of the other device.
(Why `meta`: without CUDA, torch's backward pass knows no queue for a device named `cuda`.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
OTHER = torch.device("meta")
MAY_MIX = {
    aten.copy_.default,
    aten._to_copy.default,
    aten.index.Tensor,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class MixedDevicesError(RuntimeError):
    """What a GPU would refuse."""


class OtherTensor(Tensor):
    """A tensor of the other device around one that holds its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OtherTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=OTHER,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """The one way to the numbers that torch does not dispatch."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """While it is active, what is made on `meta` is an OtherTensor."""

    def __enter__(self) -> "OtherDevice":
        # torch.tensor(numbers, device="meta") would forget the numbers before it dispatches.
        self.plain = torch.tensor
        torch.tensor = lambda data, *, device=None, **options: self.plain(data, **options).to(device or "cpu")
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.tensor = self.plain

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation comes here."""
        return _run(func, args, kwargs or {})


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_flatten((args, kwargs))[0]
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    others = [tensor for tensor in given if isinstance(tensor, OtherTensor)]
    here = [tensor for tensor in given if not isinstance(tensor, OtherTensor) and tensor.dim()]
    if others and here and func not in MAY_MIX:
        raise MixedDevicesError(
            f"{func}: tensors of two devices, {[tuple(t.shape) for t in others]} there and "
            f"{[tuple(t.shape) for t in here]} on the CPU"
        )
    asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    is_there = asked[0].type == OTHER.type if asked else bool(others)
    if func in (
        aten.copy_.default,
        aten.index.Tensor,
        aten.index_put_.default,
        aten._index_put_impl_.default,
    ):
        is_there = isinstance(args[0], OtherTensor)
        if not is_there and func is not aten.copy_.default and others:
            raise MixedDevicesError(f"{func}: indices of the other device into a tensor of the CPU")
    own = {id(tensor.held): tensor for tensor in others}

    def unwrap(leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        return leaf.held if isinstance(leaf, OtherTensor) else leaf

    result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not is_there:
            return leaf
        with torch.inference_mode(False):  # else `detach` of a weight would have no version to share
            return own[id(leaf)] if id(leaf) in own else OtherTensor(leaf)

    return tree_map(wrap, result)


def moved(model: Any) -> Any:
    """The model with all its weights and buffers on the other device, in place."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                there = nn.Parameter(OtherTensor(value.data), requires_grad=value.requires_grad)
                module._parameters[name] = there
        for name, value in list(module._buffers.items()):
            if value is not None:
                module._buffers[name] = OtherTensor(value)
    return model
