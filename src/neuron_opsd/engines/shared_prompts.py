"""A prompt that several completions go on from, held once: the cache, and the attention that reads it.

`SlotCache` copies a prompt's keys and values for each of its completions. Here `prompts` holds them once, and the slots
hold only what the completions wrote themselves. A token's scores with its prompt and those with its own completion are
two products, of which the first takes all completions of a prompt together. One softmax goes over both, so the result
differs from that of copies by rounding alone.

This is the formula of torch's attention over all earlier tokens. Windows, sinks, and models that do more around it keep
to copies: `can_share_prompts` compares the two.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PretrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import sdpa_mask

from neuron_opsd.engines.slot_cache import SlotCache
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.unembedding import last_place

NAME = "shared_prompts"


class SharedPromptCache(SlotCache):
    """As `SlotCache`, with each prompt once. A row's columns are what was written since its prompt was read.

    Args:
        max_columns: the most tokens that a row can write.
        max_tokens: the budget, prompts included. None is no limit.
    """

    def __init__(self, *, max_columns: int, max_tokens: int | None = None) -> None:
        super().__init__(max_columns=max_columns, max_tokens=max_tokens)
        self.prompts = _Prompts(max_columns=0)
        self.prompt_of: list[int] = []  # of each row, its prompt's place in `prompts`
        self._layouts: dict[torch.device, _Layout] = {}

    def admit(self, prefilled: Cache, lengths: Sequence[int], copies: Sequence[int]) -> None:
        """Add prompt i, the last `lengths[i]` columns of row i of `prefilled`, and `copies[i]` rows of it."""
        first = len(self.prompts.starts)
        self.prompts.admit(prefilled, lengths, [1] * len(lengths))
        self.prompt_of += [first + i for i, count in enumerate(copies) for _ in range(count)]
        self._take_layers(prefilled)
        num_rows = len(self.prompt_of)
        if num_rows > self.num_slots or self.is_full() or self._exceeds_budget():
            self._lay_out(num_rows=num_rows, width=self.width)
        self._set_starts([*self.starts, *[self.end] * sum(copies)])

    def remove(self, row: int) -> None:
        """Take a row out, and with the last one of a prompt that prompt. The last takes the place of each."""
        super().remove(row)
        prompt, self.prompt_of[row] = self.prompt_of[row], self.prompt_of[-1]
        self.prompt_of.pop()
        if prompt not in self.prompt_of:
            self.prompts.remove(prompt)
            moved = len(self.prompts.starts)
            self.prompt_of = [prompt if place == moved else place for place in self.prompt_of]

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """What the model is told of the rows' next tokens."""
        inputs = super().inputs(device)
        positions = inputs["position_ids"] + self.layout(device).prompt_lengths[:, None]
        return {**inputs, "position_ids": positions, NAME: self}

    def attention(self, model: CausalLM) -> AbstractContextManager[None]:
        """While the model reads the rows' next tokens: its attention reads the prompts, too."""
        return _attention_of(model, NAME)

    def layout(self, device: torch.device) -> "_Layout":
        """Where rows are among their prompts' rows, made anew when rows have changed."""
        if device not in self._layouts:
            self._layouts[device] = _Layout(self, device)
        return self._layouts[device]

    def _set_starts(self, starts: list[int]) -> None:
        super()._set_starts(starts)
        self._layouts = {}

    def _row_budget(self, new_prompts: Sequence[int]) -> int | None:
        if self.max_tokens is None:
            return None
        num_prompts = len(self.prompts.starts) + len(new_prompts)
        return self.max_tokens - num_prompts * max(self.prompts.width, *new_prompts, 0)

    def _widest(self, new_prompts: Sequence[int]) -> int:
        return self.width

    def _exceeds_budget(self) -> bool:
        held = self.num_slots * self.capacity + self.prompts.num_slots * self.prompts.capacity
        return self.max_tokens is not None and held > self.max_tokens

    def _lay_out(self, *, num_rows: int, width: int) -> None:
        """Both anew, since the rows get what the prompts leave."""
        self.prompts.tighten()
        super()._lay_out(num_rows=num_rows, width=width)


class _Prompts(SlotCache):
    """Rows that nothing is appended to, in buffers that are no larger than they are."""

    def is_full(self) -> bool:
        return False

    def tighten(self) -> None:
        """Give back what left since the last layout."""
        if self.num_slots > len(self.starts) or self.capacity > self.width:
            self._lay_out(num_rows=len(self.starts), width=self.width)

    def _least_columns(self, width: int) -> int:
        return width


class _Layout:
    """From rows to prompts with their rows, [prompts, most rows of one], and back."""

    def __init__(self, cache: SharedPromptCache, device: torch.device) -> None:
        rows_of: dict[int, list[int]] = defaultdict(list)
        for row, prompt in enumerate(cache.prompt_of):
            rows_of[prompt].append(row)
        most = max(map(len, rows_of.values()))
        # Prompts with fewer rows repeat their first one, which nothing reads.
        rows = [rows_of[prompt] for prompt in range(len(rows_of))]
        self.rows = torch.tensor([[*own, *own[:1] * (most - len(own))] for own in rows], device=device)
        place = {row: prompt * most + i for prompt, own in enumerate(rows) for i, row in enumerate(own)}
        self.places = torch.tensor([place[row] for row in range(len(place))], device=device)
        lengths = cache.prompts.lengths()
        self.prompt_lengths = torch.tensor([lengths[prompt] for prompt in cache.prompt_of], device=device)
        starts = torch.tensor(cache.prompts.starts, device=device)
        columns = torch.arange(cache.prompts.first, cache.prompts.end, device=device)
        self.is_padding = (columns < starts[:, None])[:, None, None]

    def by_prompt(self, states: Float[Tensor, "rows heads queries size"]) -> Tensor:
        """[prompts, heads, rows of the prompt x queries, size]."""
        return states[self.rows].transpose(1, 2).flatten(2, 3)

    def by_row(self, states: Float[Tensor, "prompts heads rows_and_queries size"]) -> Tensor:
        """[rows, heads, queries, size]: what `by_prompt` took apart."""
        return states.unflatten(2, (self.rows.shape[1], -1)).transpose(1, 2).flatten(0, 1)[self.places]


def attend(
    module: nn.Module,
    query: Float[Tensor, "rows query_heads 1 size"],
    key: Float[Tensor, "rows heads own size"],
    value: Float[Tensor, "rows heads own value_size"],
    attention_mask: Tensor | None,
    *,
    shared_prompts: SharedPromptCache,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of one token a row over its prompt and its own tokens, by transformers' interface.

    Raises:
        TypeError: the model caps its scores, or has sinks.
    """
    if softcap is not None or s_aux is not None:
        raise TypeError("capped scores and sinks are not computed here")
    layout, prompts = shared_prompts.layout(query.device), shared_prompts.prompts
    prompt_keys, prompt_values = prompts.slot_layers[module.layer_idx].held(prompts.end)  # pyright: ignore
    # Query heads that share a key head stand together, so keys are not repeated.
    queries = query[:, :, 0].unflatten(1, (key.shape[1], -1))
    with_prompt = _products(layout.by_prompt(queries), prompt_keys.mT).masked_fill_(
        layout.is_padding, -torch.inf
    )
    with_own = _products(queries, key.mT)
    if attention_mask is not None:
        with_own.masked_fill_(~attention_mask, -torch.inf)
    scores = torch.cat([with_prompt, layout.by_prompt(with_own)], dim=-1)
    weights = scores.mul_(query.shape[-1] ** -0.5 if scaling is None else scaling).softmax(dim=-1)
    of_prompt, of_own = weights.split([prompt_keys.shape[2], key.shape[2]], dim=-1)
    output = layout.by_row(_products(of_prompt, prompt_values)) + _products(layout.by_row(of_own), value)
    return output.to(query.dtype).flatten(1, 2)[:, None], None


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products in float32 at least: bfloat16 would round each, and each part of a sum, to 8 bits."""
    if b.dtype not in (torch.bfloat16, torch.float16):
        return a @ b
    if not b.is_cuda:
        return a.float() @ b.float()
    products = torch.bmm(a.to(b.dtype).flatten(0, 1), b.flatten(0, 1), out_dtype=torch.float32)
    return products.unflatten(0, b.shape[:2])


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def _attention_of(model: CausalLM, name: str) -> Iterator[None]:
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def may_share_prompts(config: PretrainedConfig) -> bool:
    """Whether an architecture claims torch's attention over all earlier tokens."""
    text = config.get_text_config()
    windows = (getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return text._attn_implementation in (None, "sdpa") and not any(windows)


@torch.inference_mode()
def can_share_prompts(model: CausalLM) -> bool:
    """Whether the model's attention is what `attend` computes. It is tried once, beside copies of a prompt."""
    if not may_share_prompts(model.config):
        return False
    prompt = torch.arange(2, 10, device=model.device)[None]
    tokens = torch.tensor([3, 5], device=model.device)
    prefilled = DynamicCache()
    model(input_ids=prompt, past_key_values=prefilled, logits_to_keep=last_place(model.device))
    found = []
    try:
        for cache in (SlotCache(max_columns=16), SharedPromptCache(max_columns=8)):
            cache.admit(prefilled, [prompt.shape[1]], [len(tokens)])
            found.append(cache.next_logits(model, tokens))
    except (LookupError, RuntimeError, TypeError, ValueError):
        return False  # a model whose attention is called in another way
    copied_type, (copied, shared) = found[0].dtype, (logits.float() for logits in found)
    alone = model(input_ids=tokens[:, None]).logits[:, -1].float()
    # Rounding depends on the depth, too, so the measure is what the whole prompt changes.
    limit = 1e-3 if copied_type == torch.float32 else 0.25
    return bool((copied - shared).norm() < limit * (copied - alone).norm())
