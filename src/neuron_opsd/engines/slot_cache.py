"""A key-value cache whose rows come and go: written in place, without a copy at each token.

Every row is one completion being written. All rows end at one common column, so a step writes a single column and the
model sees contiguous rows padded on the left, as causal and sliding-window masks expect:

    columns   0 . . . first . . . . . . . end . . capacity
    row 0             [prompt][completion]|
    row 1                    [prompt][com]|            a row admitted later starts further right
    row 2 (free)

A prompt is copied for each of its completions here, and held once in `shared_prompts.py`, where attention allows it.

A finished row is overwritten by the last one. Columns before the longest row (`first`) are not read. A full buffer is
laid out anew: half as wide again, no wider than the longest row can become, with no slots that nobody waits for.
"""

import sys
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from neuron_opsd.errors import EngineError
from neuron_opsd.model.load import CausalLM

FIRST_ROOM = 64  # columns beyond what the rows hold that a new layout has at least, if the budget allows


class SlotCache(Cache):
    """Keys and values of rows that come and go, in buffers of at most `max_tokens` places (rows x columns).

    Args:
        max_columns: the longest that a row can become.
        max_tokens: the budget. None is no limit.
    """

    def __init__(self, *, max_columns: int, max_tokens: int | None = None) -> None:
        super().__init__(layers=[])
        self.slot_layers: list[_SlotLayer] = []  # the same objects, for who checks types
        self.max_columns, self.max_tokens = max_columns, max_tokens
        self.starts: list[int] = []  # column of each row's first token
        self.end = 0  # the column that the next token goes to
        self.num_slots = self.capacity = 0
        self.expected_rows = 0  # rows that will be there at once: a layout makes room for them
        self._starts: Tensor | None = None

    @property
    def first(self) -> int:
        """The first column that any row uses."""
        return min(self.starts, default=self.end)

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return self.end - self.first

    def lengths(self) -> list[int]:
        """Tokens held of each row."""
        return [self.end - start for start in self.starts]

    def starts_on(self, device: torch.device) -> Tensor:
        """`starts` as a tensor, copied to the device only when rows have changed."""
        if self._starts is None:
            self._starts = torch.tensor(self.starts, device=device)
        return self._starts

    def max_rows(self, new_prompts: Sequence[int] = ()) -> int:
        """How many rows fit the budget and go on, once prompts of these lengths are among them."""
        budget = self._row_budget(new_prompts)
        return sys.maxsize if budget is None else budget // self._least_columns(self._widest(new_prompts))

    def is_full(self) -> bool:
        """Whether the next token needs a new layout."""
        return self.end >= self.capacity

    def admit(self, prefilled: Cache, lengths: Sequence[int], copies: Sequence[int]) -> None:
        """Add rows: prompt i, the last `lengths[i]` columns of row i of `prefilled`, `copies[i]` times."""
        width = max(lengths)
        source = torch.tensor([i for i, n in enumerate(copies) for _ in range(n)])
        self._take_layers(prefilled)
        rows = slice(len(self.starts), len(self.starts) + len(source))
        if rows.stop > self.num_slots or width > self.end or self.is_full():
            self._lay_out(num_rows=rows.stop, width=max(width, self.width))
        for own, other in zip(self.slot_layers, prefilled.layers, strict=True):
            for buffer, states in zip((own.keys, own.values), attention_states(other), strict=True):
                buffer[rows, :, self.end - width : self.end] = states[source, :, -width:]
        self._set_starts([*self.starts, *(self.end - lengths[i] for i in source.tolist())])

    def make_room(self) -> None:
        """Before the next token is written: a column for it."""
        if self.is_full():
            self._lay_out(num_rows=len(self.starts), width=self.width)

    def step(self) -> None:
        """The token just written is part of every row."""
        self.end += 1

    def remove(self, row: int) -> None:
        """Take a row out. The last row moves to its place."""
        last = len(self.starts) - 1
        if row != last:
            columns = slice(self.starts[last], self.end)
            for layer in self.slot_layers:
                layer.keys[row, :, columns] = layer.keys[last, :, columns]
                layer.values[row, :, columns] = layer.values[last, :, columns]
        self.starts[row] = self.starts[last]
        self._set_starts(self.starts[:-1])

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """What the model is told of the rows' next tokens."""
        starts = self.starts_on(device)
        columns = torch.arange(self.first, self.end + 1, device=device)
        return {
            "attention_mask": (columns >= starts[:, None]).long(),
            "position_ids": (self.end - starts)[:, None],
            "past_key_values": self,
        }

    def attention(self, model: CausalLM) -> AbstractContextManager[None]:
        """While the model reads the rows' next tokens: its own attention."""
        return nullcontext()

    def next_logits(self, model: CausalLM, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Logits after one more token of every row."""
        self.make_room()
        with self.attention(model):
            logits = model(input_ids=tokens[:, None], **self.inputs(tokens.device)).logits[:, -1]
        self.step()
        return logits

    def _set_starts(self, starts: list[int]) -> None:
        self.starts, self._starts = starts, None

    def _row_budget(self, new_prompts: Sequence[int]) -> int | None:
        """The part of the budget that rows may take."""
        return self.max_tokens

    def _widest(self, new_prompts: Sequence[int]) -> int:
        """Columns of the longest row, once prompts of these lengths are there."""
        return max(self.width, *new_prompts, 0)

    def _least_columns(self, width: int) -> int:
        """Columns of a layout for rows of `width` tokens: an eighth more at least, so that layouts stay rare."""
        return min(width + max(FIRST_ROOM, width // 8), self.max_columns)

    def _lay_out(self, *, num_rows: int, width: int) -> None:
        """New buffers, in which the rows that are there end at column `width`. One layer's old ones go at a time."""
        budget, least = self._row_budget(()), self._least_columns(width)
        slots = max(num_rows, min(self.expected_rows, sys.maxsize if budget is None else budget // least))
        columns = max(min(width + width // 2 + FIRST_ROOM, self.max_columns), least)
        if budget is not None:
            columns = max(min(columns, budget // slots), least)
        begin = width - self.width
        for layer in self.slot_layers:
            layer.keys = self._moved(layer.keys, slots, columns, begin)
            layer.values = self._moved(layer.values, slots, columns, begin)
        shift = begin - self.first
        self._set_starts([start + shift for start in self.starts])
        self.end, self.num_slots, self.capacity = width, slots, columns

    def _moved(self, buffer: Tensor, slots: int, columns: int, begin: int) -> Tensor:
        """Zeros, because what is masked must still be finite, and the rows' states from column `begin` on."""
        rows = len(self.starts)
        moved = buffer.new_zeros(slots, buffer.shape[1], columns, buffer.shape[3])
        moved[:rows, :, begin : begin + self.width] = buffer[:rows, :, self.first : self.end]
        return moved

    def _take_layers(self, prefilled: Cache) -> None:
        if not self.layers:
            self.slot_layers = [_SlotLayer(self, *attention_states(layer)) for layer in prefilled.layers]
            self.layers = [*self.slot_layers]


class _SlotLayer(DynamicLayer):
    """One layer's buffers, [slots, heads, capacity, head size]."""

    keys: Tensor
    values: Tensor

    def __init__(self, cache: SlotCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.cache = weakref.proxy(cache)  # a cycle would keep the buffers until the garbage collector comes
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values = keys[:0, :, :0], values[:0, :, :0]  # until there is a layout
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write one token of every row. What the rows hold is returned as views."""
        rows, end = len(self.cache.starts), self.cache.end
        self.keys[:rows, :, end] = key_states[:, :, 0]
        self.values[:rows, :, end] = value_states[:, :, 0]
        return self.held(end + 1)

    def held(self, end: int) -> tuple[Tensor, Tensor]:
        """Views of what the rows hold before column `end`."""
        rows, columns = len(self.cache.starts), slice(self.cache.first, end)
        return self.keys[:rows, :, columns], self.values[:rows, :, columns]

    def get_seq_length(self) -> int:
        """Columns that precede the next token."""
        return self.cache.end - self.cache.first


def attention_states(layer: object) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer of attention.

    Raises:
        EngineError: another kind of layer, whose state is no list of tokens.
    """
    if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
        raise EngineError(
            f"The hf engine holds keys and values of attention. This model has a {type(layer).__name__}. "
            "Use engine.name=vllm or server."
        )
    return layer.keys, layer.values
