"""The default engine: a transformers model, decoded in batches with a key-value cache.

Why not `model.generate`: it draws from one global random state, so a completion would change with its batch. Here each
completion has a random state of its own (inverse transform sampling on one uniform number per token), a prompt is
prefilled once for all its completions, and finished rows leave the batch. Another batch size changes no more than
floating-point rounding does.
"""

from collections.abc import Iterator, Sequence

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from neuron_opsd.engines.base import Completion, Request, Sampling
from neuron_opsd.errors import EngineError
from neuron_opsd.model.load import CausalLM, end_token_ids, max_context_tokens


class HFEngine:
    """Generates with a transformers model that is already loaded; the model's weights may change between calls."""

    def __init__(self, model: CausalLM, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 32) -> None:
        self.model = model
        self.batch_size = batch_size
        self.end_ids = torch.tensor(sorted(end_token_ids(model, tokenizer)), device=model.device)

    def identity(self) -> dict[str, str]:
        """Name and version, for the record."""
        return {"engine": "hf", "transformers": transformers.__version__, "torch": torch.__version__}

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (request index, completions) batch by batch, longest prompts first (so memory peaks at once)."""
        for request in requests:
            _check_room(len(request.prompt_ids), sampling.max_new_tokens, max_context_tokens(self.model))
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt_ids), i))
        for batch in _fill_batches(order, requests, self.batch_size):
            yield from zip(batch, self._generate_batch([requests[i] for i in batch], sampling), strict=True)

    @torch.inference_mode()
    def _generate_batch(self, requests: list[Request], sampling: Sampling) -> list[list[Completion]]:
        """Prefill each prompt once, then decode all completions of the batch together."""
        owner = [i for i, request in enumerate(requests) for _ in request.seeds]
        uniforms = _draw_uniforms([s for request in requests for s in request.seeds], sampling.max_new_tokens)
        device = self.model.device
        ids, mask = pad_left([request.prompt_ids for request in requests], device=device)
        cache = DynamicCache(config=self.model.config)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=_positions(mask),
            past_key_values=cache,
            logits_to_keep=1,
        )
        rows = torch.tensor(owner, device=device)
        if len(owner) != len(requests):
            cache.batch_select_indices(rows)
        tokens, log_probs, ended = self._decode(
            output.logits[rows, -1], cache, mask[rows], uniforms.to(device), sampling
        )
        completions = [
            Completion(token_ids=tuple(t), log_probs=tuple(p), finish_reason="stop" if e else "length")
            for t, p, e in zip(tokens, log_probs, ended, strict=True)
        ]
        grouped: list[list[Completion]] = [[] for _ in requests]
        for i, completion in zip(owner, completions, strict=True):
            grouped[i].append(completion)
        return grouped

    def _decode(
        self,
        logits: Float[Tensor, "rows vocab"],
        cache: DynamicCache,
        mask: Int[Tensor, "rows seq"],
        uniforms: Float[Tensor, "rows steps"],
        sampling: Sampling,
    ) -> tuple[list[list[int]], list[list[float]], list[bool]]:
        """Token by token until every row has ended or is as long as allowed."""
        num_rows = len(mask)
        tokens, log_probs = [[] for _ in range(num_rows)], [[] for _ in range(num_rows)]
        ended = [False] * num_rows
        active = list(range(num_rows))  # active[j]: the row that sits at place j of the batch
        for step in range(sampling.max_new_tokens):
            chosen, chosen_log_probs = sample_tokens(logits, uniforms[active, step], sampling)
            stops = torch.isin(chosen, self.end_ids).tolist()
            listed = zip(active, chosen.tolist(), chosen_log_probs.tolist(), stops, strict=True)
            for row, token, log_prob, stop in listed:
                tokens[row].append(token)
                log_probs[row].append(log_prob)
                ended[row] = stop
            keep = [j for j, stop in enumerate(stops) if not stop]
            if not keep or step + 1 == sampling.max_new_tokens:
                break
            if len(keep) < len(active):
                kept = torch.tensor(keep, device=chosen.device)
                cache.batch_select_indices(kept)
                chosen, mask, active = chosen[kept], mask[kept], [active[j] for j in keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self.model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=_positions(mask)[:, -1:],
                past_key_values=cache,
            ).logits[:, -1]
        return tokens, log_probs, ended


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


def _positions(mask: Int[Tensor, "rows seq"]) -> Int[Tensor, "rows seq"]:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _draw_uniforms(seeds: list[int], num_steps: int) -> Float[Tensor, "rows steps"]:
    """One uniform number in [0, 1) for each token a row may get; prefixes agree whatever the limit is."""
    return torch.stack(
        [torch.rand(num_steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def _fill_batches(order: list[int], requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Consecutive requests whose completions together fill a batch; a request is never split."""
    batch: list[int] = []
    num_rows = 0
    for i in order:
        if batch and num_rows + len(requests[i].seeds) > batch_size:
            yield batch
            batch, num_rows = [], 0
        batch.append(i)
        num_rows += len(requests[i].seeds)
    if batch:
        yield batch


def _check_room(num_prompt_tokens: int, max_new_tokens: int, max_context: int | None) -> None:
    if max_context is not None and num_prompt_tokens + max_new_tokens > max_context:
        raise EngineError(
            f"A prompt of {num_prompt_tokens} tokens and {max_new_tokens} new ones exceed the model's context of "
            f"{max_context}. Lower max_new_tokens, or leave the question out."
        )
