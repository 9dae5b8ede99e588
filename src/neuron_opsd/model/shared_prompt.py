"""Scoring without gradient where several completions follow one prompt: the prompt is read once.

The teacher's prompt carries ten demonstrations and is many times longer than a completion, and each question's rollouts
share it. It is prefilled once. The completions then read its keys and values, which are expanded to the number of rows
without a copy that would outlive a layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.unembedding import backbone

Ids = Sequence[int]
MIN_SHARED = 8  # tokens: reading fewer once gains nothing


@torch.no_grad()
def scoring_states(
    model: CausalLM, prompts: Sequence[Ids], completions: Sequence[Ids]
) -> Float[Tensor, "tokens hidden"]:
    """The states that predict each completion token, row by row: those of `predicting_states`, prompts read once.

    Args:
        model: The teacher, in eval mode and without a wrapper.
        prompts: One for each row. Equal ones are shared.
        completions: At least one token each.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(row)
    found: dict[int, Tensor] = {}
    alone = [rows[0] for rows in groups.values() if len(rows) == 1]
    if alone:
        found |= _read_apart(model, prompts, completions, alone)
    for prompt, rows in groups.items():
        if len(rows) > 1:
            cache, last = _prefill(model, prompt)
            shared = [completions[row] for row in rows]
            states = _after_prompt(model, cache, last, shared) if cache else None
            found |= (
                zip(rows, states, strict=True) if states else _read_apart(model, prompts, completions, rows)
            )
    return torch.cat([found[row] for row in range(len(prompts))])


@torch.no_grad()
def states_after(model: CausalLM, prompts: Sequence[Ids]) -> Iterator[Float[Tensor, "hidden"]]:
    """The last state of each prompt. What all of them begin with (a system turn, instructions) is read once."""
    width = min(_common_prefix(prompts), min(map(len, prompts)) - 1)
    # The token after the end is there to be predicted. Which one it is changes nothing.
    rests: list[Ids] = [[*prompt[width:], 0] for prompt in prompts]
    cache, last = (
        _prefill(model, prompts[0][:width]) if len(prompts) > 1 and width >= MIN_SHARED else (None, None)
    )
    if cache is None or last is None:
        batch = pad_right(prompts, [(0,)] * len(prompts), device=model.device)
        yield from predicting_states(model, model, *batch)
    else:
        for states in _after_prompt(model, cache, last, rests):
            yield states[-1]


def _common_prefix(prompts: Sequence[Ids]) -> int:
    """Tokens with which all prompts begin. Whatever lies between the smallest and the largest begins alike."""
    first, last = (tuple(prompt) for prompt in (min(prompts, key=tuple), max(prompts, key=tuple)))
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def _read_apart(
    model: CausalLM, prompts: Sequence[Ids], completions: Sequence[Ids], rows: list[int]
) -> dict[int, Tensor]:
    """Rows that share nothing: one padded batch."""
    texts = [completions[row] for row in rows]
    batch = pad_right([prompts[row] for row in rows], texts, device=model.device)
    states = predicting_states(model, model, *batch).split([len(text) for text in texts])
    return dict(zip(rows, states, strict=True))


def _prefill(model: CausalLM, prompt: Ids) -> tuple[DynamicCache | None, Tensor]:
    """The prompt's cache and last state. No cache where the model's layers keep something else than keys and values."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([prompt], device=model.device)
    states = backbone(model)(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    is_plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    return cache if is_plain else None, states[0, -1:]


def _after_prompt(
    model: CausalLM, cache: DynamicCache, last: Float[Tensor, "1 hidden"], completions: list[Ids]
) -> list[Tensor]:
    """States of several completions behind one cached prompt."""
    read = [list(completion[:-1]) for completion in completions]  # the last token predicts nothing
    width = max(map(len, read))
    if width == 0:
        return [last for _ in read]
    cache.layers[:] = [_for_rows(layer, len(read)) for layer in cache.layers]
    # Right padding comes after all that is read, so causal order alone hides it and no row needs a mask of its own.
    ids = torch.tensor([row + [0] * (width - len(row)) for row in read], device=model.device)
    states = backbone(model)(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    return [torch.cat([last, states[i, : len(row)]]) for i, row in enumerate(read)]


def _for_rows(layer: Any, num_rows: int) -> DynamicLayer:
    if type(layer) is DynamicLayer:
        return _ReadOnlyLayer(layer, num_rows)
    layer.batch_repeat_interleave(num_rows)
    return layer


class _ReadOnlyLayer(DynamicLayer):
    """Keys and values of one prompt, read by several rows. What comes after is joined for the moment and not kept."""

    def __init__(self, prompt: DynamicLayer, num_rows: int) -> None:
        super().__init__()
        assert prompt.keys is not None
        assert prompt.values is not None
        self.keys = prompt.keys.expand(num_rows, -1, -1, -1)
        self.values = prompt.values.expand(num_rows, -1, -1, -1)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Prompt and new states together."""
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)
