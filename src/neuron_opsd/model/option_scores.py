"""How much probability a model gives to each of a few short replies: one teacher-forced pass, no sampling.

    P(reply | prompt) = product over its tokens. Of a reply with several spellings, the sum over them

So a reply of several tokens needs no rule of its own, and whatever engine sampled the answers changes nothing. Where
the prompts have just been read for sampling, the replies alone are (`log_probs_after`).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

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
HEAD_ROWS = 64  # states whose vocabulary logits are held at once


@dataclass(frozen=True, slots=True)
class ReadPrompts:
    """Prompts that the model has just read, padded on the left."""

    prompts: Sequence[Ids]
    mask: Int[Tensor, "prompts seq"]
    cache: DynamicCache
    last_states: Float[Tensor, "prompts hidden"]
    sees_all: bool = False  # whether attention is over all earlier tokens, wherever they are held


class FirstToken(NamedTuple):
    """What a model says of the first token of the reply to a prompt."""

    place: int  # among the prompts
    logits: Float[Tensor, " vocab"]  # float32
    state: Float[Tensor, " hidden"]  # which the logits are made from


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
    items = sorted(_beginnings(replies, packs=read.sees_all), key=lambda item: -len(item.read))
    found: dict[Row, float] = {}
    for batch in _batches(items, max(CACHE_TOKENS // read.mask.shape[1], 1)):
        states = _states_after(model, read, batch)
        first, wanted = 0, {}  # of each reply, the states that predict its tokens, and these tokens
        for item, own in zip(batch, states, strict=True):
            for reply in replies[item.place]:
                if reply[:-1] in item.index:
                    wanted[item.place, reply] = [
                        (first + item.index[reply[:t]], token) for t, token in enumerate(reply)
                    ]
            first += len(own)
        values = iter(_log_probs(model, torch.cat(states), [pair for own in wanted.values() for pair in own]))
        found |= {row: sum(itertools.islice(values, len(own))) for row, own in wanted.items()}
    return _in_order(model, read.prompts, replies, found)


@torch.inference_mode()
def read_first_tokens(model: CausalLM, prompts: Sequence[Ids], *, batch_size: int) -> Iterator[FirstToken]:
    """Read each prompt, the longest first.

    Raises:
        NotFiniteError: logits are NaN or infinite.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for batch in _batches(order, batch_size):
        states = torch.stack([*states_after(model, [prompts[i] for i in batch])])
        logits = logits_from_hidden(model, states).cpu()
        if not all_finite(logits.logsumexp(dim=-1).tolist()):
            raise not_finite(model, [prompts[i] for i in batch], what="The logits of the first tokens")
        yield from map(FirstToken, batch, logits, states.cpu())


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items that are read together, each batch told as it begins."""
    for start in range(0, len(items), size):
        tell(doing=f"reading {start + 1} of {len(items)}")
        yield items[start : start + size]


@dataclass(frozen=True, slots=True)
class _Beginnings:
    """What is read behind one prompt in one row: beginnings of its replies, each after the one it goes on from."""

    place: int
    read: tuple[Ids, ...]

    @property
    def index(self) -> dict[Ids, int]:
        """Of the states. The first is the prompt's."""
        return {(): 0, **{ids: i for i, ids in enumerate(self.read, start=1)}}


def _beginnings(replies: Sequence[Sequence[Ids]], *, packs: bool) -> list[_Beginnings]:
    """Rows to read: all replies of a prompt in one, what they begin with once. Or one for each that is longer."""
    found = []
    for place, own in enumerate(replies):
        chains = [tuple(reply[:t] for t in range(1, len(reply))) for _, reply in _rows([own])]
        if packs and chains:
            chains = [tuple(dict.fromkeys(itertools.chain.from_iterable(chains)))]
        found += [_Beginnings(place, chain) for chain in chains]
    return found


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
    return _in_order(model, prompts, replies, found)


def _in_order(
    model: CausalLM, prompts: Sequence[Ids], replies: Sequence[Sequence[Ids]], found: dict[Row, float]
) -> list[list[float]]:
    for (place, reply), value in found.items():
        if not all_finite([value]):
            raise not_finite(model, [prompts[place] + reply], what="The log-probabilities of the options")
    return [[found[place, reply] for reply in own] for place, own in enumerate(replies)]


def _states_after(model: CausalLM, read: ReadPrompts, batch: Sequence[_Beginnings]) -> list[Tensor]:
    """For each item its prompt's last state, then the state after each beginning."""
    device = model.device
    places = torch.tensor([item.place for item in batch], device=device)
    states = read.last_states[places][:, None]
    width = max(len(item.read) for item in batch)
    if width:
        cache = DynamicCache()
        for index, layer in enumerate(read.cache.layers):
            cache.update(layer.keys[places], layer.values[places], index)  # pyright: ignore
        ids, _ = pad_right(
            [[ids[-1] for ids in item.read] for item in batch], [()] * len(batch), device=device
        )
        depths, _ = pad_right([[len(ids) - 1 for ids in item.read] for item in batch], [()] * len(batch))
        mask = read.mask[places]
        after = backbone(model)(
            input_ids=ids,
            attention_mask=_mask(mask, batch, width, model.dtype) if read.sees_all else _causal(mask, width),
            position_ids=mask.sum(dim=1, keepdim=True) + depths.to(device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        states = torch.cat([states, after], dim=1)
    return [own[: 1 + len(item.read)] for own, item in zip(states, batch, strict=True)]


def _causal(mask: Int[Tensor, "rows seq"], width: int) -> Int[Tensor, "rows longer"]:
    """Padding on the right comes after all that is read, so causal order hides it."""
    return torch.cat([mask, mask.new_ones(len(mask), width)], dim=1)


def _mask(
    mask: Int[Tensor, "rows seq"], batch: Sequence[_Beginnings], width: int, dtype: torch.dtype
) -> Float[Tensor, "rows 1 new all"]:
    """What is added to the scores: each beginning sees its prompt, the beginnings that it goes on from, and itself."""
    own = torch.eye(width, dtype=torch.bool).repeat(len(batch), 1, 1)
    for row, item in enumerate(batch):
        for i, ids in enumerate(item.read):
            if len(ids) > 1:
                own[row, i] |= own[row, item.index[ids[:-1]] - 1]
    sees = torch.cat([mask.bool()[:, None].expand(-1, width, -1), own.to(mask.device)], dim=2)
    return torch.zeros(sees.shape, dtype=dtype, device=mask.device).masked_fill(~sees, -torch.inf)[:, None]


def _log_probs(
    model: CausalLM, states: Float[Tensor, "states hidden"], wanted: Sequence[tuple[int, int]]
) -> list[float]:
    """For each (state, token) the token's log-probability. The vocabulary's logits of few states are held at once."""
    rows, tokens = torch.tensor(wanted, device=states.device).T
    found = torch.empty(len(wanted), device=states.device)
    for start in range(0, len(states), HEAD_ROWS):
        logits = logits_from_hidden(model, states[start : start + HEAD_ROWS])
        here = (rows >= start) & (rows < start + HEAD_ROWS)
        own = rows[here] - start
        found[here] = logits[own, tokens[here]] - logits.logsumexp(dim=-1)[own]
    return found.tolist()


def _score(model: CausalLM, prompts: Sequence[Ids], batch: Sequence[Row]) -> Iterator[torch.Tensor]:
    """For each row the log-probabilities at each of its reply's places, (reply tokens, vocab)."""
    padded = pad_right(
        [prompts[place] for place, _ in batch], [reply for _, reply in batch], device=model.device
    )
    states = predicting_states(model, model, *padded)
    for own in states.split([len(reply) for _, reply in batch]):
        yield logits_from_hidden(model, own).log_softmax(dim=-1).cpu()
