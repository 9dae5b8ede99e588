"""Scoring without gradient where several completions follow one prompt: the prompt is read once.

The teacher's prompt carries ten demonstrations and is many times longer than a completion, and each question's rollouts
share it. It is prefilled once. The completions then read its keys and values, which are expanded to the number of rows
without a copy that would outlive a layer. What several prompts begin with is read once, too, and kept for later calls
(`KeptPrefixes`).
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.unembedding import backbone

Ids = Sequence[int]
MIN_SHARED = 8  # tokens: reading fewer once gains nothing
MIN_KEPT = 64  # tokens: reading fewer again costs less than a pass of their own


class ReadPrompt(NamedTuple):
    """What a model made of a prompt."""

    cache: DynamicCache
    last: Float[Tensor, "1 hidden"]  # the state that predicts what comes next


class KeptPrefixes:
    """What a model made of the beginnings of prompts, while its weights stay as they are. The least used leave first.

    A beginning is always read by itself, so what is kept and what is read again are equal to the bit.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.known: dict[tuple[int, ...], ReadPrompt] = {}  # the least recently used first
        self.is_possible = max_bytes > 0

    def clear(self) -> None:
        """Forget all, because the weights have changed."""
        self.known = {}

    def read(self, model: CausalLM, prefix: tuple[int, ...]) -> ReadPrompt | None:
        """The beginning, kept or read now. None where a layer keeps something else than all keys and values."""
        found = self.known.pop(prefix, None)
        if found is None and self.is_possible:
            found = _prefill(model, prefix)
            self.is_possible = found is not None and _holds_all(found, prefix)
        if found is None or not self.is_possible:
            return None
        self.known[prefix] = found
        while sum(map(_num_bytes, self.known.values())) > self.max_bytes:
            del self.known[next(iter(self.known))]
        return found


def _holds_all(read: ReadPrompt, prompt: Ids) -> bool:
    """Whether every layer holds the keys and values of every token."""
    layers = read.cache.layers
    return all(type(layer) is DynamicLayer and layer.get_seq_length() == len(prompt) for layer in layers)


def _num_bytes(read: ReadPrompt) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in read.cache.layers)  # pyright: ignore


@torch.no_grad()
def scoring_states(
    model: CausalLM,
    prompts: Sequence[Ids],
    completions: Sequence[Ids],
    *,
    kept: KeptPrefixes | None = None,
    starts: Sequence[int] = (),
) -> Float[Tensor, "tokens hidden"]:
    """The states that predict each completion token, row by row: those of `predicting_states`, prompts read once.

    Args:
        model: The teacher, in eval mode and without a wrapper.
        prompts: One for each row. Equal ones are shared.
        completions: At least one token each.
        kept: Where the beginnings of prompts are kept between calls.
        starts: The length of each prompt's beginning that is to be kept, with `kept`.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(row)
    by_prefix: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    for prompt, rows in groups.items():
        width = min(starts[rows[0]], len(prompt) - 1) if kept else 0
        by_prefix[prompt[:width] if width >= MIN_KEPT else ()].append(rows)
    found: dict[int, Tensor] = {}
    whole = by_prefix.pop((), [])
    for prefix, members in by_prefix.items():
        before = kept.read(model, prefix) if kept else None
        if before is None:
            whole += members
        else:
            rests = {row: prompts[row][len(prefix) :] for rows in members for row in rows}
            found |= _read_groups(model, rests, completions, members, before)
    found |= _read_groups(model, dict(enumerate(prompts)), completions, whole)
    return torch.cat([found[row] for row in range(len(prompts))])


def states_of_completions(
    model: CausalLM, prompt: Ids, completions: Sequence[Ids]
) -> Float[Tensor, "tokens hidden"] | None:
    """The states that predict each completion token, with gradients where those are on. The prompt is read once.

    None where a layer keeps something else than all keys and values.
    """
    read = _prefill(model, prompt)
    if read is None or not _holds_all(read, prompt):
        return None
    return torch.cat(_after_prompt(model, read, completions))


def has_dropout(model: CausalLM) -> bool:
    """Whether training drops states at random: by a layer, LoRA's among them, or by a function of the model's code."""
    named = model.config.get_text_config().to_dict().items()  # the code reads its rates there
    of_code = [rate for name, rate in named if "drop" in name and isinstance(rate, float)]
    of_layers = [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]
    return any(rate > 0 for rate in (*of_code, *of_layers))


@torch.no_grad()
def states_after(model: CausalLM, prompts: Sequence[Ids]) -> Iterator[Float[Tensor, "hidden"]]:
    """The last state of each prompt. What all of them begin with (a system turn, instructions) is read once."""
    # The token after the end is there to be predicted. Which one it is changes nothing.
    for states in states_of_texts(model, [(prompt, (0,)) for prompt in prompts]):
        yield states[0]


@torch.no_grad()
def states_of_texts(
    model: CausalLM, texts: Sequence[tuple[Ids, Ids]]
) -> Iterator[Float[Tensor, "tokens hidden"]]:
    """The states that predict the completion of each text, in one pass. What all prompts begin with is read once.

    Args:
        model: In eval mode.
        texts: Prompt and completion of each.
    """
    prompts, completions = ([text[part] for text in texts] for part in (0, 1))
    width = min(common_prefix(prompts), min(map(len, prompts)) - 1)
    read = _prefill(model, prompts[0][:width]) if len(texts) > 1 and width >= MIN_SHARED else None
    if read is None:
        batch = pad_right(prompts, completions, device=model.device)
        yield from predicting_states(model, model, *batch).split(list(map(len, completions)))
    else:
        rests = [[*prompt[width:], *completion] for prompt, completion in texts]
        for completion, states in zip(completions, _after_prompt(model, read, rests), strict=True):
            yield states[len(states) - len(completion) :]


def common_prefix(prompts: Sequence[Ids]) -> int:
    """Tokens with which all prompts begin. Whatever lies between the smallest and the largest begins alike."""
    first, last = (tuple(prompt) for prompt in (min(prompts, key=tuple), max(prompts, key=tuple)))
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def _read_groups(
    model: CausalLM,
    prompts: Mapping[int, Ids],
    completions: Sequence[Ids],
    groups: Sequence[list[int]],
    before: ReadPrompt | None = None,
) -> dict[int, Tensor]:
    """The states of each row. Rows of a group share their prompt, and `before` comes before every prompt."""
    found: dict[int, Tensor] = {}
    if alone := [rows[0] for rows in groups if len(rows) == 1]:
        found |= _read_apart(model, prompts, completions, alone, before)
    for rows in groups:
        if len(rows) > 1:
            read = _prefill(model, prompts[rows[0]], before)
            shared = [completions[row] for row in rows]
            states = _after_prompt(model, read, shared) if read else None
            found |= (
                zip(rows, states, strict=True)
                if states
                else _read_apart(model, prompts, completions, rows, before)
            )
    return found


def _read_apart(
    model: CausalLM,
    prompts: Mapping[int, Ids],
    completions: Sequence[Ids],
    rows: list[int],
    before: ReadPrompt | None,
) -> dict[int, Tensor]:
    """Rows that share nothing but what comes before them: one padded batch."""
    if before:
        states = _after_prompt(model, before, [[*prompts[row], *completions[row]] for row in rows])
        return {row: own[-len(completions[row]) :] for row, own in zip(rows, states, strict=True)}
    texts = [completions[row] for row in rows]
    batch = pad_right([prompts[row] for row in rows], texts, device=model.device)
    states = predicting_states(model, model, *batch).split([len(text) for text in texts])
    return dict(zip(rows, states, strict=True))


def _prefill(model: CausalLM, prompt: Ids, before: ReadPrompt | None = None) -> ReadPrompt | None:
    """Read a prompt, or its rest. None where the model's layers keep something else than keys and values."""
    cache = DynamicCache(config=model.config)
    if before:
        cache.layers[:] = map(copy.copy, before.cache.layers)  # a layer grows by new tensors
    ids = torch.tensor([prompt], device=model.device)
    states = backbone(model)(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    is_plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    return ReadPrompt(cache, states[0, -1:].clone()) if is_plain else None


def _after_prompt(model: CausalLM, prompt: ReadPrompt, completions: Sequence[Ids]) -> list[Tensor]:
    """States of several completions behind one prompt."""
    read = [list(completion[:-1]) for completion in completions]  # the last token predicts nothing
    width = max(map(len, read))
    if width == 0:
        return [prompt.last for _ in read]
    cache = DynamicCache(config=model.config)
    cache.layers[:] = [_for_rows(layer, len(read)) for layer in prompt.cache.layers]
    # Right padding comes after all that is read, so causal order alone hides it and no row needs a mask of its own.
    ids = torch.tensor([row + [0] * (width - len(row)) for row in read], device=model.device)
    states = backbone(model)(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    return [torch.cat([prompt.last, states[i, : len(row)]]) for i, row in enumerate(read)]


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
