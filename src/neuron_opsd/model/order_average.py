"""The teacher reads a question in several orders of its choices: its distribution is the mean over them.

    p(v) = 1/k sum_j p_j(s_j(v))

p_j is the distribution under the j-th order. s_j turns a letter of the order that the student reads into the letter
that the same choice has in the j-th order, and leaves every other token. So what a model prefers for its place alone
averages out, without a label. Where replies give a choice's text, no token is renamed.

A completion is read under each order with its own letters renamed, so that "B" stays the answer that it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.shared_prompt import KeptPrefixes, scoring_states

Ids = tuple[int, ...]

MAX_KNOWN = (
    4096  # questions whose first tokens are kept: 16 kB each for a hidden size of 1,000 and four orders
)


@dataclass(frozen=True, slots=True)
class OrderView:
    """One order of the choices: the teacher's prompt, and what each letter token of the student's order is called."""

    prompt_ids: Ids
    renamed: Mapping[int, int] = field(default_factory=dict)

    def rename(self, completion: Sequence[int]) -> Ids:
        """The completion, as this order would write it."""
        return tuple(self.renamed.get(token, token) for token in completion)


class ViewStates(NamedTuple):
    """What predicts each completion token under each order. Rows of fewer orders are filled up with weight 0."""

    hidden: Float[Tensor, "tokens orders hidden"]
    log_weights: Float[Tensor, "tokens orders"]
    shown: Int[Tensor, "tokens orders letters"]  # letter tokens of the student's order
    there: Int[Tensor, "tokens orders letters"]  # the same choices' letters in each order

    def kept(self, places: Tensor) -> "ViewStates":
        """Those of some tokens."""
        return ViewStates(*(rows[places] for rows in self))


def view_states(
    model: CausalLM,
    views: Sequence[Sequence[OrderView]],
    completions: Sequence[Sequence[int]],
    *,
    kept: KeptPrefixes | None = None,
    starts: Sequence[int] = (),
) -> ViewStates:
    """The states of each completion under its orders. What the orders' prompts begin with alike is read once.

    Args:
        model: The teacher, in eval mode and without a wrapper.
        views: For each completion, one or more.
        completions: At least one token each.
        kept: Where the beginnings of prompts are kept between calls.
        starts: For each completion, the length of its prompts' beginning that is to be kept, with `kept`.
    """
    prompts: list[Ids] = []
    texts: list[Ids] = []
    for own, completion in zip(views, completions, strict=True):
        common = _common_start([view.prompt_ids for view in own])
        prompts += [own[0].prompt_ids[:common]] * len(own)
        texts += [view.prompt_ids[common:] + view.rename(completion) for view in own]
    widths = [width for own, width in zip(views, starts, strict=bool(kept)) for _ in own]
    found = scoring_states(model, prompts, texts, kept=kept, starts=widths)
    states = iter(found.split([len(text) for text in texts]))
    rows = [
        _rows_of(own, [next(states)[-len(completion) :] for _ in own])
        for own, completion in zip(views, completions, strict=True)
    ]
    return _joined(rows)


class FirstTokens:
    """What a teacher whose weights never change says of first tokens: read once for each question, and kept.

    A question is read apart from others of its batch, so that what is kept and what is read again are equal to the bit.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[Ids, ...], ViewStates] = {}

    def states(
        self,
        model: CausalLM,
        views: Sequence[Sequence[OrderView]],
        *,
        kept: KeptPrefixes,
        starts: Sequence[int],
    ) -> ViewStates:
        """`view_states` of completions of one token each."""
        return _joined([self._of(model, own, kept, start) for own, start in zip(views, starts, strict=True)])

    def _of(self, model: CausalLM, own: Sequence[OrderView], kept: KeptPrefixes, start: int) -> ViewStates:
        key = tuple(view.prompt_ids for view in own)
        found = self.known.pop(key, None)
        if found is None:
            # Which token it is does not change what predicts it.
            found = view_states(model, [own], [(0,)], kept=kept, starts=[start])
        self.known[key] = found
        while len(self.known) > MAX_KNOWN:
            del self.known[next(iter(self.known))]
        return found


def mean_log_probs(
    logits: Float[Tensor, "tokens orders vocab"],
    log_weights: Float[Tensor, "tokens orders"],
    shown: Int[Tensor, "tokens orders letters"],
    there: Int[Tensor, "tokens orders letters"],
) -> Float[Tensor, "tokens vocab"]:
    """The log of p in the equation above, in the letters of the student's order."""
    log_probs = logits.log_softmax(dim=-1)
    log_probs = log_probs.scatter(-1, shown, log_probs.gather(-1, there))
    return (log_probs + log_weights[..., None]).logsumexp(dim=1)


def _common_start(prompts: Sequence[Ids]) -> int:
    """How many tokens all prompts begin with alike: at least one token of each is left to read apart."""
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _rows_of(views: Sequence[OrderView], states: Sequence[Tensor]) -> ViewStates:
    """One completion's rows, each order with the same weight."""
    hidden = torch.stack(list(states), dim=1)
    num_tokens, device = hidden.shape[0], hidden.device
    weights = -torch.log(torch.full((len(views),), float(len(views)), device=device))
    letters = max(len(view.renamed) for view in views)
    maps = torch.zeros(2, len(views), letters, dtype=torch.long, device=device)
    for place, view in enumerate(views):
        maps[0, place, : len(view.renamed)] = torch.tensor(list(view.renamed), dtype=torch.long)
        maps[1, place, : len(view.renamed)] = torch.tensor(list(view.renamed.values()), dtype=torch.long)
    return ViewStates(hidden, *(part.expand(num_tokens, *part.shape) for part in (weights, maps[0], maps[1])))


def _joined(rows: Sequence[ViewStates]) -> ViewStates:
    """The rows of several completions. Those of fewer orders are filled up with orders of weight 0.

    Letters are filled up with token 0, which is renamed to itself and so stays as it is.
    """
    orders = max(part.hidden.shape[1] for part in rows)
    letters = max(part.shown.shape[-1] for part in rows)

    def filled(values: Tensor, value: float = 0.0, width: int | None = None) -> Tensor:
        more = orders - values.shape[1]
        last = () if values.dim() == 2 else (0, 0 if width is None else width - values.shape[-1])
        return torch.nn.functional.pad(values, (*last, 0, more), value=value)

    return ViewStates(
        torch.cat([filled(part.hidden) for part in rows]),
        torch.cat([filled(part.log_weights, -torch.inf) for part in rows]),
        torch.cat([filled(part.shown, width=letters) for part in rows]),
        torch.cat([filled(part.there, width=letters) for part in rows]),
    )
