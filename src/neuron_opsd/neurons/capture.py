"""Rollouts -> neuron sets, by one teacher-forced forward pass.

    for sets in capture_neurons(model, tokenizer, rollouts, NeuronSettings()):
        print(sets.question_id, sets.consensus_score, sets.overlap_set)

docs/method.md, sections 2 and 3. Only the backbone runs: no logits, nothing after the last layer's neurons.
Each layer's activations are reduced to their top entries inside the hook and then forgotten, so memory does
not grow with the number of layers or questions. Long completions run in pieces over a key-value cache.
Completions of like length share a batch, padded so that all of them start to be read at the same column.
Records come out in the order the rollouts went in.
"""

# torch leaves some of its functions without types.
# pyright: reportUnknownMemberType=false

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from neuron_opsd.config import NeuronSettings
from neuron_opsd.errors import DataError, ModelError
from neuron_opsd.model.ffn import FeedForward, find_ffns, hook_neurons, unwrap_adapters
from neuron_opsd.model.unembedding import backbone, final_norm_weight, unembedding_weight
from neuron_opsd.neurons.contribution import column_norm, contribution, magnitude, token_readout
from neuron_opsd.neurons.sets import (
    NO_ENTRY,
    NeuronSetBuilder,
    NeuronSizes,
    merge_top_entries,
    merge_top_per_token,
    resolve_sizes,
)
from neuron_opsd.records import NeuronSets, Rollout
from neuron_opsd.text.thinking import answer_offset, is_left_open

BATCHES_SORTED_TOGETHER = 16  # rollouts held back so that like lengths can share a batch
MAX_BATCH_TOKENS = 16_384  # padded tokens of a batch: longer completions go in smaller batches
PIECE_TOKENS = 1_024  # tokens of one forward pass over the cache, about
MAX_PIECE_CHUNKS = 8  # chunks whose entries are held at once


def capture_neurons(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Iterable[Rollout],
    settings: NeuronSettings,
    *,
    on_read: Callable[[int, int], None] | None = None,
) -> Iterator[NeuronSets]:
    """The count set and the overlap set behind each rollout, in the order of the rollouts.

    Args:
        model: A dense causal language model of transformers, with or without PEFT adapters. Its dtype is
            the forward pass's. Contributions are float32 always.
        tokenizer: Read only for settings.tokens = answer, to find where the thinking ends.
        rollouts: Read lazily, settings.batch_size * 16 ahead.
        settings: What counts as a neuron of a completion. Shares are scaled to the model: `resolve_sizes`.
        on_read: Called after each batch with its completions and its tokens, prompts included: records come
            out only when those before them are done.

    Yields:
        One record a rollout. A completion without tokens to read gets empty sets: an empty one, or with
        settings.tokens = answer one that was cut inside its thinking.

    Raises:
        ModelError: the model has no dense FFNs, or its activations are not finite.
        DataError: a rollout without prompt.
    """
    ffns = find_ffns(model)
    reader = _Reader(unwrap_adapters(model), ffns, settings, resolve_sizes(ffns, settings))
    rollouts = iter(rollouts)
    while window := list(islice(rollouts, BATCHES_SORTED_TOGETHER * settings.batch_size)):
        texts = [_split(rollout, tokenizer, settings) for rollout in window]
        records: dict[int, NeuronSets] = {}
        for batch in _batches(texts, settings.batch_size):
            builders = reader.read([texts[index] for index in batch])
            for index, builder in zip(batch, builders, strict=True):
                records[index] = _record(window[index], builder)
            if on_read is not None:
                on_read(len(batch), sum(len(texts[i].context) + len(texts[i].read) for i in batch))
        yield from (records[index] for index in range(len(window)))


@dataclass(frozen=True, slots=True)
class _Text:
    """A rollout as this stage sees it: tokens that are only context, then tokens whose neurons are read."""

    context: tuple[int, ...]
    read: tuple[int, ...]


def _split(rollout: Rollout, tokenizer: PreTrainedTokenizerBase, settings: NeuronSettings) -> _Text:
    if not rollout.prompt_ids:
        raise DataError(
            f"Rollout {rollout.rollout_index} of question {rollout.question_id} has no prompt tokens."
        )
    completion, start = rollout.completion_ids, 0
    if settings.tokens == "answer":
        start = len(completion) if is_left_open(rollout.reply) else answer_start(tokenizer, completion)
    stop = settings.first_tokens if settings.tokens == "first" else len(completion)
    return _Text(context=rollout.prompt_ids + completion[:start], read=completion[start:stop])


def answer_start(tokenizer: PreTrainedTokenizerBase, completion_ids: Sequence[int]) -> int:
    """Index of the first token after the last mark that closes thinking, 0 where there is none."""
    pieces = [str(tokenizer.decode([token])) for token in completion_ids]  # a mark may span several tokens
    position, index, offset = 0, 0, answer_offset("".join(pieces))
    while position < offset:
        position += len(pieces[index])
        index += 1
    return index


def _batches(texts: Sequence[_Text], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of like length, none above MAX_BATCH_TOKENS padded tokens unless it is alone."""
    # Context and read part are padded each on its own side: sort by the second, coarsely, then by the first.
    order = sorted(range(len(texts)), key=lambda i: (-(-len(texts[i].read) // 64), len(texts[i].context)))
    batch: list[int] = []
    for index in order:
        if batch and not _fits(texts, [*batch, index], batch_size):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _fits(texts: Sequence[_Text], batch: Sequence[int], batch_size: int) -> bool:
    """Whether these may share a forward pass: not many, not large, at most a third of it padding."""
    padded = len(batch) * sum(_widths(texts, batch))
    real = sum(len(texts[i].context) + len(texts[i].read) for i in batch)
    return len(batch) <= batch_size and padded <= min(MAX_BATCH_TOKENS, 1.5 * real)


def _widths(texts: Sequence[_Text], batch: Sequence[int]) -> tuple[int, int]:
    return max(len(texts[i].context) for i in batch), max(len(texts[i].read) for i in batch)


@dataclass(frozen=True, slots=True)
class _Segment:
    """One chunk of one completion, inside one forward pass."""

    row: int
    start: int  # columns of its states, within the piece
    stop: int
    ids: Int[Tensor, " tokens"]  # of its tokens, as indices into the piece's distinct ids


class _EndOfPass(Exception):  # noqa: N818
    """Raised once the last layer's neurons are read: what follows is not needed."""


class _Reader:
    """Runs batches through the model and reduces what the hooks see."""

    def __init__(
        self, model: PreTrainedModel, ffns: list[FeedForward], settings: NeuronSettings, sizes: NeuronSizes
    ) -> None:
        self.model, self.ffns, self.settings, self.sizes = model, ffns, settings, sizes
        self.backbone = backbone(model)
        self.takes_positions = "position_ids" in inspect.signature(self.backbone.forward).parameters
        self.device = unembedding_weight(model).device
        self.norm_scale = final_norm_weight(model).float() if settings.final_norm_scale else None

    @torch.inference_mode()
    def read(self, texts: Sequence[_Text]) -> list[NeuronSetBuilder]:
        """One builder a text, all chunks added."""
        builders = [NeuronSetBuilder(self.sizes, self.settings.count_set, self.device) for _ in texts]
        was_training = self.model.training
        self.model.eval()
        try:
            if any(text.read for text in texts):
                self._read_pieces(texts, builders)
        finally:
            if was_training:
                self.model.train()
        return builders

    def _read_pieces(self, texts: Sequence[_Text], builders: list[NeuronSetBuilder]) -> None:
        context = max(len(text.context) for text in texts)
        first_state = context - 1 if self.settings.alignment == "predicting" else context
        width = first_state + max(len(text.read) for text in texts)
        ids, mask = _pad(texts, context, self.device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        bounds = _piece_bounds(first_state, width, self.settings.chunk_tokens)
        cache = DynamicCache(config=self.model.config.get_text_config()) if len(bounds) > 2 else None
        for start, stop in pairwise(bounds):
            inputs = {"input_ids": ids[:, start:stop], "attention_mask": mask[:, :stop]}
            if self.takes_positions:
                inputs["position_ids"] = positions[:, start:stop]
            segments, distinct = self._segments(texts, first_state, start, stop)
            best = self._forward(inputs, cache, segments, distinct)
            for index, segment in enumerate(segments):
                builders[segment.row].add_chunk(best[index])

    def _segments(
        self, texts: Sequence[_Text], first_state: int, start: int, stop: int
    ) -> tuple[list[_Segment], Int[Tensor, " ids"]]:
        """The chunks whose states lie in columns [start, stop), and the distinct token ids among them."""
        chunk = self.settings.chunk_tokens
        begin = max(0, start - first_state)  # a piece starts where a chunk starts
        spans = [
            (row, token, min(token + chunk, len(text.read), stop - first_state))
            for row, text in enumerate(texts)
            for token in range(begin, min(len(text.read), stop - first_state), chunk)
        ]
        if not spans:
            return [], torch.empty(0, dtype=torch.long)
        flat = torch.tensor([token for row, first, last in spans for token in texts[row].read[first:last]])
        distinct, inverse = cast("tuple[Tensor, Tensor]", flat.unique(return_inverse=True))
        parts = torch.split(inverse.to(self.device), [last - first for _, first, last in spans])
        offset = first_state - start
        return [
            _Segment(row, first + offset, last + offset, part)
            for (row, first, last), part in zip(spans, parts, strict=True)
        ], distinct

    def _forward(
        self,
        inputs: dict[str, Tensor],
        cache: DynamicCache | None,
        segments: list[_Segment],
        distinct: Int[Tensor, " ids"],
    ) -> Float[Tensor, "segments layers neurons"]:
        """Run one piece and reduce every layer to the best entries of each segment."""
        batch, seq = inputs["input_ids"].shape
        rows = self._token_rows(distinct)
        shape = (len(segments), self.sizes.num_layers, self.sizes.d_ff)
        best = torch.full(shape, NO_ENTRY, device=self.device)  # a layer may be narrower than the widest
        layers_seen = 0

        def receive(layer: int, neurons: Tensor) -> None:
            nonlocal layers_seen
            layers_seen += 1
            if segments:
                reduced = self._reduce(layer, neurons.view(batch, seq, -1), segments, rows)
                best[:, layer, : reduced.shape[-1]] = reduced.to(self.device)
            if layer == self.sizes.num_layers - 1:
                raise _EndOfPass

        with suppress(_EndOfPass), hook_neurons(self.ffns, self.settings.activation, receive):
            self.backbone(**inputs, past_key_values=cache, use_cache=cache is not None)
        if layers_seen != self.sizes.num_layers:
            raise ModelError(
                f"{layers_seen} of {self.sizes.num_layers} layers ran the module that is hooked: this model "
                "computes its FFNs by fused code. Use neurons.activation=gate_up, or load it without kernels."
            )
        return best

    def _token_rows(self, distinct: Int[Tensor, " ids"]) -> Float[Tensor, "ids hidden"]:
        """e[y] of the distinct ids, times the final norm's weight where asked."""
        rows = unembedding_weight(self.model)[distinct.to(self.device)]
        return rows if self.norm_scale is None else rows.float() * self.norm_scale

    def _reduce(
        self,
        layer: int,
        neurons: Float[Tensor, "batch seq neurons"],
        segments: list[_Segment],
        rows: Float[Tensor, "ids hidden"],
    ) -> Float[Tensor, "segments neurons"]:
        """The best entries of one layer, for each segment."""
        weight = self.ffns[layer].down_weight()
        if self.settings.score == "magnitude":
            norm = column_norm(weight)
            scores = (magnitude(neurons[s.row, s.start : s.stop], norm) for s in segments)
        else:
            readout = token_readout(weight, rows.to(weight.device))
            scores = (
                contribution(neurons[s.row, s.start : s.stop], readout, s.ids.to(weight.device))
                for s in segments
            )
        if self.settings.per_token_entries:
            return torch.stack(
                [merge_top_per_token(score, self.settings.per_token_entries) for score in scores]
            )
        return torch.stack([merge_top_entries(score, self.sizes.num_entries) for score in scores])


def _pad(
    texts: Sequence[_Text], context: int, device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Ids and mask: contexts padded left, read tokens right, so that reading starts in one column."""
    read = max(len(text.read) for text in texts)
    ids = torch.zeros(len(texts), context + read, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        start, stop = context - len(text.context), context + len(text.read)
        ids[row, start:stop] = torch.tensor(text.context + text.read)
        mask[row, start:stop] = 1
    return ids.to(device), mask.to(device)


def _piece_bounds(first_state: int, width: int, chunk_tokens: int) -> list[int]:
    """Columns at which the pass is cut: whole chunks a piece. What precedes them joins the first piece."""
    piece = chunk_tokens * max(1, min(MAX_PIECE_CHUNKS, PIECE_TOKENS // chunk_tokens))
    return [0, *range(first_state % piece + piece, width, piece), width]


def _record(rollout: Rollout, builder: NeuronSetBuilder) -> NeuronSets:
    if not builder.is_finite():
        raise ModelError(
            f"The neurons of question {rollout.question_id} are not finite. "
            "Use model.dtype=bfloat16 or float32."
        )
    per_layer = builder.neurons_per_layer()
    return NeuronSets(
        question_id=rollout.question_id,
        rollout_index=rollout.rollout_index,
        num_completion_tokens=len(rollout.completion_ids),
        num_chunks=builder.num_chunks,
        consensus_score=sum(per_layer),
        consensus_score_per_chunk=builder.mean_chunk_count(),
        neurons_per_layer=per_layer,
        overlap_set=builder.overlap_set(),
    )
