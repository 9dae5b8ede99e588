"""Nearest neighbours in large pools: candidates by a binary index, then measured exactly.

The NUM_BITS neuron ids that tell sets apart best become the bits of a code. There faiss's `IndexBinaryFlat` compares
codes by Hamming distance, which counts the shared neurons among these ids exactly. An id in a share p of the
sets varies a shared count by p^2 (1 - p^2), so ids are chosen by that: neither those that all sets hold nor
those that hardly any holds. In sets like Qwen3-4B's, 8,192 of 350,000 ids carry 95 % of the variance.

Only the remaining ids are then looked up, for the candidates alone: distances are exact, a neighbour may be
missed. How many are is measured in docs/neurons.md.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.errors import ConfigError

NUM_BITS = 8_192
QUERY_BLOCK = 256
# Jaccard order is that of shared / (size + other size). Near a distance of 1/2 that is 1/3, and there one more
# neuron in the other set weighs as much as 1/3 of a shared one less.
SIZE_WEIGHT = 1 / 3

Indices = NDArray[np.integer]


def shared_with_candidates(
    overlap_sets: Sequence[NDArray[np.integer]],
    frequency: NDArray[np.int64],
    queries: Indices,
    num_candidates: int,
    *,
    left_out: Callable[[int], Indices],
) -> Iterator[tuple[Indices, NDArray[np.int64]]]:
    """For each query its candidates, ascending, and how many ids each shares with it.

    Args:
        overlap_sets: Neuron ids of each set.
        frequency: In how many sets each id is.
        queries: Indices of sets.
        num_candidates: At most so many a query. The query itself and what is left out do not count.
        left_out: Indices that must not be candidates of a query, itself included.
    """
    bits = _informative_ids(frequency, len(overlap_sets))
    codes, num_bits_set, rest = _encode(overlap_sets, bits)
    padded, padding = _pad_by_size(codes, num_bits_set, [len(ids) for ids in overlap_sets])
    index = _faiss().IndexBinaryFlat(padded.shape[1] * 8)
    index.add(padded)
    is_in_query = np.zeros(len(frequency), dtype=bool)
    for start in range(0, len(queries), QUERY_BLOCK):
        block = queries[start : start + QUERY_BLOCK]
        outside = [left_out(int(query)) for query in block]
        asked = padded[block]
        asked[:, codes.shape[1] :] = 0
        num_found = min(num_candidates + max(map(len, outside)), len(overlap_sets))
        hamming, found = index.search(asked, num_found)
        for row, query in enumerate(block):
            keep = np.flatnonzero(~np.isin(found[row], outside[row]))[:num_candidates]
            candidates, distance = found[row][keep], hamming[row][keep]
            order = np.argsort(candidates)
            candidates, distance = candidates[order], distance[order]
            shared = num_bits_set[query] + num_bits_set[candidates] + padding[candidates] - distance
            shared //= 2
            is_in_query[rest[query]] = True
            shared += [np.count_nonzero(is_in_query[rest[other]]) for other in candidates]
            is_in_query[rest[query]] = False
            yield candidates, shared


def _faiss() -> Any:
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "The approximate neighbour search needs faiss: pip install 'neuron-opsd[large-pools]'. "
            "Or leave contexts.search_candidates empty: the exact search needs nothing more."
        ) from None
    return faiss


def _informative_ids(frequency: NDArray[np.int64], num_sets: int) -> Indices:
    """The NUM_BITS ids whose presence varies shared counts most."""
    share = (frequency / num_sets) ** 2
    return np.argsort(-share * (1 - share), kind="stable")[:NUM_BITS]


def _encode(
    overlap_sets: Sequence[NDArray[np.integer]], bits: Indices
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Indices]]:
    """Codes (sets, bytes), the number of bits set in each, and each set's ids outside the code."""
    num_ids = 1 + max(int(ids.max(initial=0)) for ids in overlap_sets)
    column = np.full(max(num_ids, int(bits.max()) + 1), -1, dtype=np.int32)
    column[bits] = np.arange(len(bits))
    codes = np.zeros((len(overlap_sets), -(-len(bits) // 8)), dtype=np.uint8)
    num_set = np.zeros(len(overlap_sets), dtype=np.int64)
    rest: list[Indices] = []
    row = np.zeros(codes.shape[1] * 8, dtype=np.uint8)
    for number, ids in enumerate(overlap_sets):
        columns = column[ids]
        inside = columns[columns >= 0]
        row[:] = 0
        row[inside] = 1
        codes[number] = np.packbits(row)
        num_set[number] = len(inside)
        rest.append(ids[columns < 0])
    return codes, num_set, rest


def _pad_by_size(
    codes: NDArray[np.uint8], num_bits_set: NDArray[np.int64], sizes: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Codes with further bits, which queries leave 0, so that Hamming order comes near Jaccard order.

    Hamming distance alone favours sets with few bits set. The padding makes up for it, and for sizes.
    """
    wanted = 2 * SIZE_WEIGHT * np.asarray(sizes) - num_bits_set
    padding = np.minimum(np.rint(wanted - wanted.min()), NUM_BITS).astype(np.int64)
    width = -(-int(padding.max()) // 8) * 8
    extra = np.packbits(np.arange(width) < padding[:, None], axis=1)
    return np.hstack([codes, extra]), padding
