"""From contributions to the two neuron sets of a completion (docs/method.md, section 3).

    S of one chunk and layer -> the top (token, neuron) entries -> best[neuron] = the largest S among a
    neuron's entries

over all chunks: count set = every neuron that ever had an entry, NOT cut: its size is the consensus score
s(x), overlap set = the K neurons of largest best > 0, for Jaccard distance alone.

`best` holds -inf for a neuron without an entry. Ties are broken the same way everywhere: the lower neuron
id is kept first, and of one neuron's equal entries the earlier token's. Both sets come from the same
`best`, in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from neuron_opsd.config import NeuronSettings
from neuron_opsd.model.ffn import FeedForward, find_ffns

BLOCK_TOKENS = 32  # entries searched together. Changes speed alone
NO_ENTRY = float("-inf")


@dataclass(frozen=True, slots=True)
class NeuronSizes:
    """What the shares in `NeuronSettings` become in one model."""

    num_layers: int
    d_ff: int  # of the widest layer. A narrower one has ids that no neuron bears
    num_entries: int  # top (token, neuron) entries per chunk and layer
    overlap_size: int  # K, the largest size of an overlap set


def resolve_sizes(model_or_ffns: nn.Module | Sequence[FeedForward], settings: NeuronSettings) -> NeuronSizes:
    """Absolute sizes for this model: 2,004 entries, K = 5,008 in Qwen3-4B, 316 and 659 in SmolLM2-135M."""
    ffns = model_or_ffns if isinstance(model_or_ffns, Sequence) else find_ffns(model_or_ffns)
    widths = [ffn.d_ff for ffn in ffns]
    mean = sum(widths) / len(widths)  # the shares are of all neurons, also where layers differ
    num_entries = settings.num_entries or max(1, round(settings.entries_fraction * mean))
    overlap_size = settings.overlap_size or max(1, round(settings.overlap_fraction * len(widths) * mean))
    return NeuronSizes(len(widths), max(widths), num_entries, overlap_size)


def keep_largest(values: Float[Tensor, "*rows n"], num_kept: int) -> Bool[Tensor, "*rows n"]:
    """Mask of the `num_kept` largest values of each row. Among equal ones the lower index."""
    if num_kept >= values.shape[-1]:
        return torch.ones_like(values, dtype=torch.bool)
    threshold = values.topk(num_kept, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above, tied = values > threshold, values == threshold
    room = num_kept - above.sum(dim=-1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=-1) <= room))


def merge_top_per_token(
    scores: Float[Tensor, "tokens neurons"], num_entries: int
) -> Float[Tensor, " neurons"]:
    """`best` when each token keeps its own top entries (settings.per_token_entries)."""
    return scores.masked_fill(~keep_largest(scores, num_entries), NO_ENTRY).amax(dim=0)


def merge_top_entries(scores: Float[Tensor, "tokens neurons"], num_entries: int) -> Float[Tensor, " neurons"]:
    """`best` when the chunk keeps its top entries over (token, neuron).

    A neuron has an entry exactly when its largest score reaches the num_entries-th largest of all scores,
    so no sort is needed: one pass takes the largest score of every block of a few tokens. The top entries
    all lie in the num_entries blocks of largest maximum, and the threshold is selected among those alone.
    Ties at the threshold that could change the result are rare and go the slow way.
    """
    if num_entries >= scores.numel():
        return scores.amax(dim=0)
    blocks = _in_blocks(scores)  # (blocks, BLOCK_TOKENS, neurons)
    block_best = blocks.amax(dim=1)
    best = block_best.amax(dim=0)
    if num_entries >= block_best.numel():
        searched = blocks.flatten()
    else:
        index = block_best.flatten().topk(num_entries, sorted=False).indices
        neurons = scores.shape[1]
        searched = blocks[index // neurons, :, index % neurons].flatten()
    threshold = searched.topk(num_entries, sorted=False).values.min()
    num_reaching = torch.maximum((searched >= threshold).sum(), (block_best >= threshold).sum())
    if num_reaching > num_entries:
        return _merge_with_ties(scores, num_entries)
    return best.masked_fill(best < threshold, NO_ENTRY)


def _in_blocks(scores: Tensor) -> Tensor:
    """(tokens, neurons) as (blocks, tokens of a block, neurons). The last block is filled up with -inf."""
    tokens, neurons = scores.shape
    missing = -tokens % BLOCK_TOKENS
    if missing:
        scores = torch.cat([scores, scores.new_full((missing, neurons), NO_ENTRY)])
    return scores.view(-1, BLOCK_TOKENS, neurons)


def _merge_with_ties(scores: Tensor, num_entries: int) -> Tensor:
    """The definition, literally: entries in the order of the module's docstring."""
    by_neuron = scores.T.flatten()  # lower neuron first, then the earlier token
    kept = keep_largest(by_neuron, num_entries).view(scores.shape[1], scores.shape[0])
    return scores.T.masked_fill(~kept, NO_ENTRY).amax(dim=1)


class NeuronSetBuilder:
    """Grows the two sets of one completion, chunk by chunk."""

    def __init__(self, sizes: NeuronSizes, count_set: str, device: torch.device | str = "cpu") -> None:
        shape = (sizes.num_layers, sizes.d_ff)
        self._sizes, self._count_set = sizes, count_set
        self._best = torch.full(shape, NO_ENTRY, device=device)
        self._counted = torch.zeros(shape, dtype=torch.bool, device=device)
        self._chunk_counts: list[Tensor] = []

    def add_chunk(self, best: Float[Tensor, "layers neurons"]) -> None:
        """Merge the best entries of the next chunk, all layers."""
        in_chunk = best > NO_ENTRY
        if self._count_set == "union_of_top":
            in_chunk = top_neurons(best, self._sizes.overlap_size)
        self._best = torch.maximum(self._best, best)
        self._counted |= in_chunk
        self._chunk_counts.append(in_chunk.sum())

    def is_finite(self) -> bool:
        """Whether no contribution was infinite or not a number."""
        return bool((self._best < float("inf")).all())  # also false for NaN

    @property
    def num_chunks(self) -> int:
        return len(self._chunk_counts)

    def neurons_per_layer(self) -> tuple[int, ...]:
        """Size of the count set in each layer."""
        return tuple(map(int, self._counted.sum(dim=1).cpu().numpy()))

    def mean_chunk_count(self) -> float:
        """Mean over chunks of each chunk's own count-set size, 0 without chunks."""
        return torch.stack(self._chunk_counts).double().mean().item() if self._chunk_counts else 0.0

    def overlap_set(self) -> NDArray[np.int32]:
        """Ids (layer * d_ff + index), ascending, of the K neurons of largest best > 0."""
        kept = top_neurons(self._best, self._sizes.overlap_size)
        return kept.flatten().nonzero().squeeze(1).cpu().numpy().astype(np.int32)


def top_neurons(best: Float[Tensor, "layers neurons"], num_kept: int) -> Bool[Tensor, "layers neurons"]:
    """Mask of the `num_kept` neurons of largest best > 0, over all layers. Fewer where fewer are positive."""
    return keep_largest(best.flatten(), num_kept).view(best.shape) & (best > 0)
