"""The default engine: a transformers model, decoded in batches with a key-value cache.

Why not `model.generate`: it draws from one global random state, so a completion would change with its batch. Here each
completion has a random state of its own (inverse transform sampling on one uniform number per token). What all prompts
begin with is read once (`read_prompts.py`), and a prompt is read and held once for all its completions. A finished
completion gives its place to the next at once, and the cache is written in place. Another batch size changes no more
than floating-point rounding does.

The cache has a budget in tokens (`engine.cache_tokens`). Completions are admitted while they fit as they are now,
because few grow to the limit. When the rows outgrow the budget, the shortest ones are paused: they give up their keys
and values, and read their own tokens again once there is room. Their random numbers go on where they stopped.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from neuron_opsd.engines.base import Completion, Request, Sampling, check_room
from neuron_opsd.engines.merged import has_room_to_merge, merged_adapter
from neuron_opsd.engines.read_prompts import PromptReader
from neuron_opsd.engines.sampling import draw_uniforms, sample_tokens
from neuron_opsd.engines.shared_prompts import SharedPromptCache, can_share_prompts
from neuron_opsd.engines.slot_cache import SlotCache, attention_states
from neuron_opsd.model.environment import free_memory
from neuron_opsd.model.finite import all_finite, not_finite
from neuron_opsd.model.load import CausalLM, end_token_ids, max_context_tokens
from neuron_opsd.model.option_scores import ReadPrompts
from neuron_opsd.progress import tell

logger = logging.getLogger(__name__)

OnRead = Callable[[CausalLM, ReadPrompts], None]
PREFILL_TOKENS = 16_384  # padded tokens of prompts that are read in one pass
SHARE_OF_FREE_MEMORY = 0.6  # the rest is for prompts while they are read, a layer while it moves, and logits


class HFEngine:
    """Generates with a transformers model that is already loaded. The model's weights may change between calls.

    Args:
        model: The model, with or without an adapter.
        tokenizer: Says which tokens end a reply.
        batch_size: Completions decoded together, at most.
        cache_tokens: Tokens whose keys and values are held at once, over all completions. None takes a share of the
            memory that is free.
        on_read: Called with prompts just after they are read.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        cache_tokens: int | None = None,
        on_read: OnRead | None = None,
    ) -> None:
        self.model, self.batch_size, self.cache_tokens = model, batch_size, cache_tokens
        self.on_read = on_read
        self.merges = has_room_to_merge(model)
        self.has_warned = False
        self.shares_prompts: bool | None = None  # tried when it is first used
        self.end_ids = torch.tensor(sorted(end_token_ids(model, tokenizer)), device=model.device)

    @staticmethod
    def identity() -> dict[str, str]:
        """Name and version, for the record."""
        return {"engine": "hf", "transformers": transformers.__version__, "torch": torch.__version__}

    def refresh(self) -> None:
        """Nothing to do: the engine reads the model's own weights."""

    def close(self) -> None:
        """Nothing to free: the model is its owner's."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (request index, completions) as they finish. Longest prompts first (so memory peaks at once).

        Raises:
            EngineError: a completion could not be written to its end, in the model's context or in the budget.
            NotFiniteError: logits are NaN or infinite.
        """
        if requests:
            with merged_adapter(self.model) if self.merges else nullcontext():
                yield from self._generate(requests, sampling)

    def _generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[int, list[Completion]]]:
        cache_tokens = self.cache_tokens or self._free_cache_tokens(requests, sampling)
        for request in requests:
            check_room(request, sampling, limit=max_context_tokens(self.model), name="the model's context")
            check_room(request, sampling, limit=self.cache_tokens, name="engine.cache_tokens")
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt_ids), i))
        batch = _RunningBatch(
            self.model,
            self.end_ids,
            sampling,
            waiting=deque(_rows(i, requests[i]) for i in order),
            max_rows=max(self.batch_size, *(len(request.seeds) for request in requests)),
            cache=self._make_cache(requests, sampling, cache_tokens),
            reader=self._make_reader(requests),
            on_read=self.on_read,
        )
        finished: dict[int, list[_Row]] = defaultdict(list)
        while batch.admit():
            for row in batch.step():
                finished[row.request].append(row)
                if len(finished[row.request]) == len(requests[row.request].seeds):
                    rows = sorted(finished.pop(row.request), key=lambda done: done.place)
                    yield row.request, [done.completion() for done in rows]

    def _may_share(self) -> bool:
        if self.shares_prompts is None:
            self.shares_prompts = can_share_prompts(self.model)
        return self.shares_prompts

    def _make_reader(self, requests: Sequence[Request]) -> PromptReader:
        prompts = [request.prompt_ids for request in requests]
        return PromptReader(self.model, prompts, shares=self._may_share())

    def _make_cache(
        self, requests: Sequence[Request], sampling: Sampling, max_tokens: int | None
    ) -> SlotCache:
        if self._may_share():
            return SharedPromptCache(max_columns=sampling.max_new_tokens, max_tokens=max_tokens)
        longest = max(len(request.prompt_ids) for request in requests)
        return SlotCache(max_columns=longest + sampling.max_new_tokens, max_tokens=max_tokens)

    def _free_cache_tokens(self, requests: Sequence[Request], sampling: Sampling) -> int | None:
        """The budget that nobody set: of free memory, but enough for one completion, since few grow to the limit."""
        free = free_cache_tokens(self.model)
        longest = max(len(request.prompt_ids) for request in requests) + sampling.max_new_tokens
        if free is None or free >= longest:
            return free
        if not self.has_warned:
            logger.warning(
                "The free memory holds the keys and values of %d tokens, and the longest completion may have %d. Long "
                "completions are written one at a time. Free memory, or lower max_new_tokens",
                free, longest,
            )  # fmt: skip
            self.has_warned = True
        return longest


@dataclass(slots=True, kw_only=True)
class _Row:
    """One completion while it is written: completion number `place` of request number `request`."""

    request: int
    place: int
    seed: int
    prompt_ids: tuple[int, ...]
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        """All that the model has to read: of a paused completion also what is written."""
        return (*self.prompt_ids, *self.tokens)

    def completion(self) -> Completion:
        return Completion(
            token_ids=tuple(self.tokens),
            log_probs=tuple(self.log_probs),
            finish_reason="stop" if self.ended else "length",
        )


def _rows(index: int, request: Request) -> list[_Row]:
    return [
        _Row(request=index, place=place, seed=seed, prompt_ids=request.prompt_ids)
        for place, seed in enumerate(request.seeds)
    ]


class _RunningBatch:
    """The completions being written now. A finished one leaves at once, and its place is given to the next.

    Args:
        model: Reads and predicts.
        end_ids: Tokens that end a completion.
        sampling: How to sample.
        waiting: Groups of rows that read the same ids, in the order of their turn. Paused rows go to its front.
        max_rows: Completions written together, at most.
        cache: Its budget decides how many of them there are.
        reader: Reads the prompts.
        on_read: See `HFEngine`.
    """

    def __init__(
        self,
        model: CausalLM,
        end_ids: Int[Tensor, " ends"],
        sampling: Sampling,
        *,
        waiting: deque[list[_Row]],
        max_rows: int,
        cache: SlotCache,
        reader: PromptReader,
        on_read: OnRead | None = None,
    ) -> None:
        self.model, self.end_ids, self.sampling, self.on_read = model, end_ids, sampling, on_read
        self.waiting, self.max_rows, self.cache, self.reader = waiting, max_rows, cache, reader
        self.rows: list[_Row] = []
        # Of each row, on the device: its next token's logits, its random numbers, and how many of them are used.
        self.logits: Float[Tensor, "rows vocab"] = torch.empty(0, 0, device=model.device)
        self.uniforms: Float[Tensor, "rows steps"] = torch.empty(0, 0, device=model.device)
        self.num_used: Int[Tensor, " rows"] = torch.empty(0, dtype=torch.long, device=model.device)

    @torch.inference_mode()
    def admit(self) -> bool:
        """Read the prompts that fit, each once for all its completions. Returns whether there is anything to write."""
        while groups := self._take_fitting():
            self._prefill(groups)
        return bool(self.rows)

    def _take_fitting(self) -> list[list[_Row]]:
        """The next groups whose rows all fit, for one pass. A group is split only where it fits no empty cache."""
        taken: list[list[_Row]] = []
        count, lengths = len(self.rows), []
        while self.waiting:
            group = self.waiting[0]
            lengths.append(len(group[0].ids))
            room = max(min(self.max_rows, self.cache.max_rows(lengths)), 1) - count
            is_too_long = bool(taken) and len(lengths) * max(lengths) > PREFILL_TOKENS
            if is_too_long or (len(group) > room and count):
                break
            self.waiting.popleft()
            if len(group) > room:
                self.waiting.appendleft(group[room:])
                group = group[:room]
            taken.append(group)
            count += len(group)
        return taken

    def _prefill(self, groups: list[list[_Row]]) -> None:
        device = self.model.device
        texts, copies = [group[0].ids for group in groups], [len(group) for group in groups]
        tell(doing=f"reading {len(texts)} prompts of up to {max(map(len, texts))} tokens")
        read, logits = self.reader.read(texts)
        new = [row for group in groups for row in group]
        num_waiting = sum(map(len, self.waiting))
        self.cache.expected_rows = min(self.max_rows, len(self.rows) + len(new) + num_waiting)
        self.cache.admit(read.cache, list(map(len, texts)), copies)
        if self.on_read:
            self.on_read(self.model, read)
        uniforms = torch.stack([draw_uniforms(row.seed, self.sampling.max_new_tokens) for row in new])
        fresh = (
            logits.repeat_interleave(torch.tensor(copies, device=device), dim=0),
            uniforms.to(device),
            torch.tensor([len(row.tokens) for row in new], device=device),
        )
        if self.rows:
            state = (self.logits, self.uniforms, self.num_used)
            fresh = tuple(torch.cat(pair) for pair in zip(state, fresh, strict=True))
        self.logits, self.uniforms, self.num_used = fresh
        self.rows += new

    @torch.inference_mode()
    def step(self) -> list[_Row]:
        """Write one more token of every row. Returns the rows that this ended.

        Raises:
            NotFiniteError: logits are NaN or infinite.
        """
        uniforms = self.uniforms.gather(1, self.num_used[:, None])[:, 0]
        chosen, log_probs = sample_tokens(self.logits, uniforms, self.sampling)
        self.num_used = self.num_used + 1
        # One copy from the device a step. float64 holds token ids and float32 numbers exactly.
        packed = torch.stack([chosen.double(), log_probs.double(), torch.isin(chosen, self.end_ids).double()])
        tokens, values, stops = packed.tolist()
        if not all_finite(values):
            broken = [
                row.ids for row, value in zip(self.rows, values, strict=True) if not all_finite([value])
            ]
            raise not_finite(self.model, broken, what="The model's logits")
        for row, token, value, stop in zip(self.rows, tokens, values, stops, strict=True):
            row.tokens.append(int(token))
            row.log_probs.append(value)
            row.ended = bool(stop)
        tell(tokens=len(self.rows), doing=f"writing {len(self.rows)} completions")
        kept = list(range(len(self.rows)))
        done = [
            self._leave(i, kept)
            for i in reversed(range(len(self.rows)))
            if self.rows[i].ended or len(self.rows[i].tokens) == self.sampling.max_new_tokens
        ]
        self._pause(kept)
        if len(kept) < len(chosen):
            index = torch.tensor(kept, dtype=torch.long, device=chosen.device)
            chosen, self.uniforms, self.num_used = chosen[index], self.uniforms[index], self.num_used[index]
        if self.rows:
            self.logits = self.cache.next_logits(self.model, chosen)
        return done

    def _pause(self, kept: list[int]) -> None:
        """Where a wider cache would exceed the budget, the shortest rows give up their places, which costs least."""
        cache = self.cache
        while cache.is_full() and len(self.rows) > max(cache.max_rows(), 1):
            lengths = cache.lengths()
            self.waiting.appendleft([self._leave(lengths.index(min(lengths)), kept)])

    def _leave(self, i: int, kept: list[int]) -> _Row:
        """Take row i out. The last row moves to its place, here as in the cache."""
        row = self.rows[i]
        self.cache.remove(i)
        self.rows[i], kept[i] = self.rows[-1], kept[-1]
        self.rows.pop()
        kept.pop()
        return row


def free_cache_tokens(model: CausalLM) -> int | None:
    """Tokens whose keys and values fill a share of the memory that is free now. None where that is unknown."""
    free = free_memory(model.device)
    if free is None:
        return None
    cache = DynamicCache()
    with torch.inference_mode():
        one = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        model(input_ids=one, past_key_values=cache, use_cache=True)
    size = sum(states.nbytes for layer in cache.layers for states in attention_states(layer))
    return max(int(free * SHARE_OF_FREE_MEMORY) // size, 1)
