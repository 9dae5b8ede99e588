"""A key-value cache whose rows come and go: written in place, without a copy at each token.

Every row is one completion being written. All rows end at one common column, so a step writes a single column and the
model sees contiguous rows padded on the left, as causal and sliding-window masks expect:

    columns   0 . . . first . . . . . . . end . . capacity
    row 0             [prompt][completion]|
    row 1                    [prompt][com]|            a row admitted later starts further right
    row 2 (free)

A finished row is overwritten by the last one. Columns before the longest row (`first`) are not read, and are given back
when the buffer is full.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from neuron_opsd.errors import EngineError

FIRST_CAPACITY = 64  # columns beyond the first prompts; grown by half when they do not do
WORTH_A_SHIFT = 4  # a shift is preferred to growth when it frees this part (one quarter) of the buffer


class SlotCache(Cache):
    """Keys and values of at most `num_slots` rows.

    Args:
        num_slots: the most rows that are there at once.
    """

    def __init__(self, num_slots: int) -> None:
        super().__init__(layers=[])
        self.slot_layers: list[_SlotLayer] = []  # the same objects, for who checks types
        self.num_slots = num_slots
        self.starts: list[int] = []  # column of each row's first token
        self.end = 0  # the column that the next token goes to
        self.capacity = 0

    @property
    def first(self) -> int:
        """The first column that any row uses."""
        return min(self.starts, default=self.end)

    def lengths(self) -> list[int]:
        """Tokens held of each row."""
        return [self.end - start for start in self.starts]

    def admit(self, prefilled: Cache, lengths: Sequence[int], copies: Sequence[int]) -> None:
        """Add rows: prompt i, the last `lengths[i]` columns of row i of `prefilled`, `copies[i]` times."""
        width = max(lengths)
        if not self.starts:
            self.end = width
        assert width <= self.end, "prompts come longest first, so each fits before the common end"
        source = torch.tensor([i for i, n in enumerate(copies) for _ in range(n)])
        self._allocate(prefilled, width)
        begin, rows = self.end - width, slice(len(self.starts), len(self.starts) + len(source))
        for own, other in zip(self.slot_layers, prefilled.layers, strict=True):
            for buffer, states in zip((own.keys, own.values), _states(other), strict=True):
                buffer[rows, :, begin : self.end] = states[source, :, -width:]
        self.starts += [self.end - lengths[i] for i in source.tolist()]

    def step(self) -> None:
        """The token just written is part of every row; make sure that the next one has room."""
        self.end += 1
        if self.end < self.capacity:
            return
        if self.first >= self.capacity // WORTH_A_SHIFT:
            self._shift()
        else:
            self._grow(self.capacity + self.capacity // 2)

    def remove(self, row: int) -> None:
        """Forget a row; the last row takes its place."""
        last = len(self.starts) - 1
        if row != last:
            columns = slice(self.starts[last], self.end)
            for layer in self.slot_layers:
                layer.keys[row, :, columns] = layer.keys[last, :, columns]
                layer.values[row, :, columns] = layer.values[last, :, columns]
        self.starts[row] = self.starts[last]
        self.starts.pop()

    def _allocate(self, prefilled: Cache, width: int) -> None:
        if not self.layers:
            self.capacity = width + FIRST_CAPACITY
            self.slot_layers = [_SlotLayer(self, *_states(layer)) for layer in prefilled.layers]
            self.layers = [*self.slot_layers]
        elif self.end >= self.capacity:
            self._grow(self.end + FIRST_CAPACITY)

    def _shift(self) -> None:
        first = self.first
        for layer in self.slot_layers:
            for buffer in (layer.keys, layer.values):
                kept = buffer[: len(self.starts), :, first : self.end].clone()  # the two places may overlap
                buffer[: len(self.starts), :, : self.end - first] = kept
        self.starts = [start - first for start in self.starts]
        self.end -= first

    def _grow(self, capacity: int) -> None:
        for layer in self.slot_layers:
            layer.keys = _widened(layer.keys, capacity)
            layer.values = _widened(layer.values, capacity)
        self.capacity = capacity


class _SlotLayer(DynamicLayer):
    """One layer's buffers, [slots, heads, capacity, head size]. Zeros: what is masked must still be finite."""

    keys: Tensor
    values: Tensor

    def __init__(self, cache: SlotCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.cache = weakref.proxy(cache)  # a cycle would keep the buffers until the garbage collector comes
        self.dtype, self.device = keys.dtype, keys.device
        self.keys = _zeros(keys, cache.num_slots, cache.capacity)
        self.values = _zeros(values, cache.num_slots, cache.capacity)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write one token of every row; what the rows hold is returned as views."""
        rows, end = len(self.cache.starts), self.cache.end
        self.keys[:rows, :, end] = key_states[:, :, 0]
        self.values[:rows, :, end] = value_states[:, :, 0]
        columns = slice(self.cache.first, end + 1)
        return self.keys[:rows, :, columns], self.values[:rows, :, columns]

    def get_seq_length(self) -> int:
        """Columns that precede the next token."""
        return self.cache.end - self.cache.first


def _states(layer: object) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer of attention.

    Raises:
        EngineError: another kind of layer, whose state is no list of tokens.
    """
    if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
        raise EngineError(
            f"The hf engine holds keys and values of attention; this model has a {type(layer).__name__}. "
            "Use engine.name=vllm or server."
        )
    return layer.keys, layer.values


def _zeros(like: Tensor, num_slots: int, capacity: int) -> Tensor:
    return like.new_zeros(num_slots, like.shape[1], capacity, like.shape[3])


def _widened(buffer: Tensor, capacity: int) -> Tensor:
    wider = _zeros(buffer, len(buffer), capacity)
    wider[:, :, : buffer.shape[2]] = buffer
    return wider
