"""The default engine: a transformers model, decoded in batches with a key-value cache.

Why not `model.generate`: it draws from one global random state, so a completion would change with its batch. Here each
completion has a random state of its own (inverse transform sampling on one uniform number per token), a prompt is
read once for all its completions, a finished completion gives its place to the next at once, and the cache is written
in place. Another batch size changes no more than floating-point rounding does.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from neuron_opsd.engines.base import Completion, Request, Sampling, check_room
from neuron_opsd.engines.slot_cache import SlotCache
from neuron_opsd.model.finite import all_finite, not_finite
from neuron_opsd.model.load import CausalLM, end_token_ids, max_context_tokens
from neuron_opsd.model.unembedding import last_place


class HFEngine:
    """Generates with a transformers model that is already loaded; the model's weights may change between calls."""

    def __init__(self, model: CausalLM, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 32) -> None:
        self.model = model
        self.batch_size = batch_size
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
        """Yield (request index, completions) as they finish; longest prompts first (so memory peaks at once)."""
        for request in requests:
            check_room(request, sampling, limit=max_context_tokens(self.model), name="the model's context")
        waiting = deque(sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt_ids), i)))
        counts = [len(request.seeds) for request in requests]
        num_slots = max([min(self.batch_size, sum(counts)), *counts])
        batch = _RunningBatch(self.model, self.end_ids, sampling, num_slots)
        finished: dict[int, list[_Row]] = defaultdict(list)
        while waiting or batch.rows:
            batch.admit([(i, requests[i]) for i in _take_fitting(waiting, requests, batch.num_free)])
            for row in batch.step():
                finished[row.request].append(row)
                if len(finished[row.request]) == len(requests[row.request].seeds):
                    rows = sorted(finished.pop(row.request), key=lambda done: done.place)
                    yield row.request, [done.completion() for done in rows]


@dataclass(slots=True, kw_only=True)
class _Row:
    """One completion while it is written: completion number `place` of request number `request`."""

    request: int
    place: int
    prompt_ids: tuple[int, ...]
    uniforms: Float[Tensor, " steps"]
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    ended: bool = False

    def completion(self) -> Completion:
        return Completion(
            token_ids=tuple(self.tokens),
            log_probs=tuple(self.log_probs),
            finish_reason="stop" if self.ended else "length",
        )


class _RunningBatch:
    """The completions being written now. A finished one leaves at once, and its place is given to the next."""

    def __init__(
        self, model: CausalLM, end_ids: Int[Tensor, " ends"], sampling: Sampling, num_slots: int
    ) -> None:
        self.model, self.end_ids, self.sampling = model, end_ids, sampling
        self.rows: list[_Row] = []
        self.cache = SlotCache(num_slots)
        self.logits: Float[Tensor, "rows vocab"] | None = None  # of each row's next token

    @property
    def num_free(self) -> int:
        return self.cache.num_slots - len(self.rows)

    @torch.inference_mode()
    def admit(self, requests: Sequence[tuple[int, Request]]) -> None:
        """Read the prompts in one pass, each once for all its completions."""
        if not requests:
            return
        ids, mask = pad_left([request.prompt_ids for _, request in requests], device=self.model.device)
        prefilled = DynamicCache()
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=prefilled,
            logits_to_keep=last_place(ids.device),
        ).logits[:, -1]
        copies = [len(request.seeds) for _, request in requests]
        self.cache.admit(prefilled, [len(request.prompt_ids) for _, request in requests], copies)
        logits = logits.repeat_interleave(torch.tensor(copies, device=logits.device), dim=0)
        self.logits = logits if self.logits is None else torch.cat([self.logits, logits])
        for index, request in requests:
            for place, seed in enumerate(request.seeds):
                uniforms = _draw_uniforms(seed, self.sampling.max_new_tokens)
                self.rows.append(
                    _Row(request=index, place=place, prompt_ids=request.prompt_ids, uniforms=uniforms)
                )

    @torch.inference_mode()
    def step(self) -> list[_Row]:
        """One more token for every row; the rows that this ended.

        Raises:
            NotFiniteError: logits are NaN or infinite.
        """
        assert self.logits is not None
        uniforms = torch.stack([row.uniforms[len(row.tokens)] for row in self.rows])
        chosen, log_probs = sample_tokens(self.logits, uniforms.to(self.logits.device), self.sampling)
        stops = torch.isin(chosen, self.end_ids).tolist()
        listed = list(zip(self.rows, chosen.tolist(), log_probs.tolist(), stops, strict=True))
        broken = [row for row, _, log_prob, _ in listed if not all_finite([log_prob])]
        if broken:
            texts = [(*row.prompt_ids, *row.tokens) for row in broken]
            raise not_finite(self.model, texts, what="The model's logits")
        for row, token, log_prob, stop in listed:
            row.tokens.append(token)
            row.log_probs.append(log_prob)
            row.ended = stop
        done = self._remove_finished()
        self.logits = self._read([row.tokens[-1] for row in self.rows]) if self.rows else None
        return done

    def _remove_finished(self) -> list[_Row]:
        done = []
        for i in reversed(range(len(self.rows))):
            row = self.rows[i]
            if row.ended or len(row.tokens) == self.sampling.max_new_tokens:
                done.append(row)
                self.cache.remove(i)
                self.rows[i] = self.rows[-1]
                self.rows.pop()
        return done

    def _read(self, tokens: list[int]) -> Float[Tensor, "rows vocab"]:
        """Logits after one more token of every row."""
        cache, device = self.cache, self.model.device
        columns = torch.arange(cache.first, cache.end + 1)
        mask = columns >= torch.tensor(cache.starts)[:, None]
        logits = self.model(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=mask.long().to(device),
            position_ids=torch.tensor(cache.lengths(), device=device)[:, None],
            past_key_values=cache,
        ).logits[:, -1]
        cache.step()
        return logits


def sample_tokens(
    logits: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"], sampling: Sampling
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """One token a row by inverse transform sampling, and its log-probability at temperature 1 without top-p.

    Softmax in float32, cumulative sums in float64: over 150,000 tokens float32 sums would bias the tail.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        chosen = logits.argmax(dim=-1)
    else:
        probs = torch.softmax(logits / sampling.temperature, dim=-1)
        if sampling.top_p < 1:
            probs = _keep_nucleus(probs, sampling.top_p)
        cumulative = probs.double().cumsum(dim=-1)
        target = uniforms.double()[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    log_probs = logits.gather(1, chosen[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
    return chosen, log_probs


def pad_left(
    sequences: Sequence[Sequence[int]], *, device: torch.device | str = "cpu", pad_id: int = 0
) -> tuple[Int[Tensor, "rows seq"], Int[Tensor, "rows seq"]]:
    """Token ids aligned at the right end, and their mask (1 = a real token). The pad id is never attended to."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, width - len(sequence) :] = 1
    return ids.to(device), mask.to(device)


def _keep_nucleus(probs: Float[Tensor, "rows vocab"], top_p: float) -> Float[Tensor, "rows vocab"]:
    """Zero all but the smallest set of most likely tokens whose mass reaches top_p."""
    ordered, indices = probs.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return torch.zeros_like(probs).scatter(1, indices, ordered.masked_fill(outside, 0.0))


def _draw_uniforms(seed: int, num_steps: int) -> Float[Tensor, " steps"]:
    """One uniform number in [0, 1) for each token a completion may get; prefixes agree whatever the limit is."""
    return torch.rand(num_steps, generator=torch.Generator().manual_seed(seed))


def _take_fitting(waiting: deque[int], requests: Sequence[Request], num_free: int) -> Iterator[int]:
    """The next requests whose completions all fit the free places; a request is never split."""
    while waiting and len(requests[waiting[0]].seeds) <= num_free:
        num_free -= len(requests[waiting[0]].seeds)
        yield waiting.popleft()
