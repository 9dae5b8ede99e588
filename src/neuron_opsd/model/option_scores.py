"""How much probability a model gives to each of a few short replies: one teacher-forced pass, no sampling.

    P(reply | prompt) = product over its tokens. Of a reply with several spellings, the sum over them

So a reply of several tokens needs no rule of its own, and whatever engine sampled the answers changes nothing. Where
the prompts have just been read for sampling, the replies alone are (`log_probs_after`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.finite import all_finite, not_finite
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.shared_prompt import states_after
from neuron_opsd.model.unembedding import backbone, logits_from_hidden
from neuron_opsd.progress import tell

Ids = tuple[int, ...]
Item = TypeVar("Item")
Row = tuple[int, Ids]  # a prompt's place, and one of its replies
CACHE_TOKENS = 8192  # of prompts that are copied for their replies at once


@dataclass(frozen=True, slots=True)
class ReadPrompts:
    """Prompts that the model has just read, padded on the left."""

    prompts: Sequence[Ids]
    mask: Int[Tensor, "prompts seq"]
    cache: DynamicCache
    last_states: Float[Tensor, "prompts hidden"]


@torch.inference_mode()
def reply_log_probs(
    model: CausalLM, prompts: Sequence[Ids], replies: Sequence[Sequence[Ids]], *, batch_size: int
) -> list[list[float]]:
    """Log-probability, in nats, of each reply to its prompt.

    Args:
        model: Scored in its own dtype. Softmax in float32.
        prompts: Token ids.
        replies: For each prompt its replies, each at least one token long.
        batch_size: Rows per forward pass.

    Returns:
        One list for each prompt, in the order of its replies.

    Raises:
        NotFiniteError: logits are NaN or infinite.
    """
    rows = sorted(_rows(replies), key=lambda row: -len(prompts[row[0]]) - len(row[1]))
    batches = _batches(rows, batch_size)
    scored = (pair for batch in batches for pair in zip(batch, _score(model, prompts, batch), strict=True))
    return _collect(model, prompts, replies, scored)


@torch.inference_mode()
def log_probs_after(
    model: CausalLM, read: ReadPrompts, replies: Sequence[Sequence[Ids]]
) -> list[list[float]]:
    """The same as `reply_log_probs`, of prompts that are read already. Their cache is left as it is.

    Raises:
        NotFiniteError: logits are NaN or infinite.
    """
    rows = sorted(_rows(replies), key=lambda row: -len(row[1]))
    size = max(CACHE_TOKENS // read.mask.shape[1], 1)
    batches = _batches(rows, size)
    scored = (pair for batch in batches for pair in zip(batch, _score_after(model, read, batch), strict=True))
    return _collect(model, read.prompts, replies, scored)


@torch.inference_mode()
def first_token_logits(
    model: CausalLM, prompts: Sequence[Ids], *, batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """(place among the prompts, float32 logits of the first token of its reply), the longest prompts first.

    Raises:
        NotFiniteError: logits are NaN or infinite.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for batch in _batches(order, batch_size):
        states = torch.stack([*states_after(model, [prompts[i] for i in batch])])
        logits = logits_from_hidden(model, states).cpu()
        if not all_finite(logits.logsumexp(dim=-1).tolist()):
            raise not_finite(model, [prompts[i] for i in batch], what="The logits of the first tokens")
        yield from zip(batch, logits, strict=True)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items that are read together, each batch told as it begins."""
    for start in range(0, len(items), size):
        tell(doing=f"reading {start + 1} of {len(items)}")
        yield items[start : start + size]


def _rows(replies: Sequence[Sequence[Ids]]) -> list[Row]:
    """Rows to run: replies that differ in their last token alone share one, so the letters of a prompt need one."""
    rows: dict[Row, Row] = {}
    for place, own in enumerate(replies):
        for reply in own:
            rows.setdefault((place, reply[:-1]), (place, reply))
    return list(rows.values())


def _collect(
    model: CausalLM,
    prompts: Sequence[Ids],
    replies: Sequence[Sequence[Ids]],
    scored: Iterable[tuple[Row, Tensor]],
) -> list[list[float]]:
    """The sums over the replies' tokens, from the log-probabilities of each row."""
    found: dict[Row, float] = {}
    for (place, reply), log_probs in scored:
        for other in replies[place]:  # every reply that this row's states predict wholly
            if other[:-1] == reply[:-1]:
                found[place, other] = sum(log_probs[t, token].item() for t, token in enumerate(other))
    for (place, reply), value in found.items():
        if not all_finite([value]):
            raise not_finite(model, [prompts[place] + reply], what="The log-probabilities of the options")
    return [[found[place, reply] for reply in own] for place, own in enumerate(replies)]


def _score_after(model: CausalLM, read: ReadPrompts, batch: Sequence[Row]) -> Iterator[Tensor]:
    """As `_score`. All tokens of a reply but the last are read behind its prompt's keys and values."""
    places = torch.tensor([place for place, _ in batch], device=model.device)
    states = read.last_states[places][:, None]
    width = max(len(reply) for _, reply in batch) - 1
    if width:
        cache = DynamicCache()
        for index, layer in enumerate(read.cache.layers):
            cache.update(layer.keys[places], layer.values[places], index)  # pyright: ignore
        ids, _ = pad_right([reply[:-1] for _, reply in batch], [(0,)] * len(batch), device=model.device)
        mask = read.mask[places]
        positions = mask.sum(dim=1, keepdim=True) + torch.arange(width, device=model.device)
        # Right padding comes after all that is read, so causal order hides it.
        after = backbone(model)(
            input_ids=ids[:, :width],
            attention_mask=torch.cat([mask, mask.new_ones(len(batch), width)], dim=1),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        states = torch.cat([states, after], dim=1)
    for own, (_, reply) in zip(states, batch, strict=True):
        yield logits_from_hidden(model, own[: len(reply)]).log_softmax(dim=-1).cpu()


def _score(model: CausalLM, prompts: Sequence[Ids], batch: Sequence[Row]) -> Iterator[torch.Tensor]:
    """For each row the log-probabilities at each of its reply's places, (reply tokens, vocab)."""
    padded = pad_right(
        [prompts[place] for place, _ in batch], [reply for _, reply in batch], device=model.device
    )
    states = predicting_states(model, model, *padded)
    for own in states.split([len(reply) for _, reply in batch]):
        yield logits_from_hidden(model, own).log_softmax(dim=-1).cpu()
