"""Nearest neighbours by Jaccard distance of overlap sets (docs/method.md, section 5).

    distance(A, B) = 1 - |A & B| / |A | B|

Exact, without an N x N matrix. A few thousand neurons lie in a large share of all sets and make most of the
work; the rest are many and rare. So the common ones become columns of a 0/1 matrix, whose products a matrix
multiplication counts exactly (in float32, up to 2^24), and the rare ones stay sparse. One block of queries is
held at a time.

For pools beyond some ten thousand sets, `num_candidates` first ranks by a sketch and then measures only that
many candidates of each query exactly: the distances stay exact, a neighbour may be missed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

Exclude = Callable[[int], Iterable[SupportsIndex]] | Sequence[Iterable[SupportsIndex]]
Sets = Sequence[NDArray[np.integer]]
Distances = NDArray[np.floating]
Indices = NDArray[np.integer]

QUERY_BLOCK = 512
CANDIDATE_BLOCK = 2_048
COMMON_FRACTION = 0.07  # ids in a larger share of the sets are multiplied densely: where the two costs meet
MAX_COMMON_BYTES = 500_000_000
SKETCH_SIZE = 1_024


def nearest_neighbours(
    overlap_sets: Sets,
    num_neighbours: int,
    *,
    exclude: Exclude | None = None,
    num_candidates: int | None = None,
) -> tuple[Indices, Distances]:
    """The `num_neighbours` other sets nearest to each set, nearest first.

    Args:
        overlap_sets: Neuron ids of each set, without repeats, in any order.
        num_neighbours: At most so many; a set never is its own neighbour.
        exclude: Further indices that must not be neighbours of query i: `exclude(i)` or `exclude[i]`.
        num_candidates: None for the exact search; else so many candidates a query are measured exactly.

    Returns:
        (indices, distances), both (sets, num_neighbours). Equal distances: the lower index first. Where
        fewer candidates exist the rest of the row is -1 and inf. Two empty sets share no neuron: their
        distance is 1.
    """
    num_sets = len(overlap_sets)
    indices = np.full((num_sets, num_neighbours), -1, dtype=np.int64)
    distances = np.full((num_sets, num_neighbours), np.inf)
    if num_sets < 2 or num_neighbours < 1:
        return indices, distances
    sizes = np.array([len(ids) for ids in overlap_sets], dtype=np.int64)
    frequency = _frequency(overlap_sets)
    blocks = _exact_blocks if num_candidates is None else _sketched_blocks
    for query, row in _rows(blocks(overlap_sets, sizes, frequency), exclude):
        if num_candidates is not None:
            candidates = np.sort(_smallest(row, max(num_candidates, num_neighbours)))
            row = _measure(overlap_sets, sizes, query, candidates, len(frequency))
        best = _smallest(row, num_neighbours)
        indices[query, : len(best)] = best
        distances[query, : len(best)] = row[best]
    return indices, distances


def jaccard_distance(shared: NDArray, size: NDArray, other_size: NDArray) -> Distances:
    """1 - |A & B| / |A | B| from counts; 1 where both are empty."""
    return 1.0 - shared / np.maximum(size + other_size - shared, 1)


def _rows(
    blocks: Iterable[tuple[int, Distances]], exclude: Exclude | None
) -> Iterator[tuple[int, Distances]]:
    """(query, its distances to all sets), inf where a set must not be its neighbour."""
    for start, block in blocks:
        for query, row in enumerate(block, start):
            row[query] = np.inf
            if exclude is not None:
                left_out = exclude(query) if callable(exclude) else exclude[query]
                row[np.fromiter(left_out, dtype=np.int64)] = np.inf
            yield query, row


def _frequency(overlap_sets: Sets) -> NDArray[np.int64]:
    """In how many sets each id lies."""
    frequency = np.zeros(
        1 + max((int(ids.max()) for ids in overlap_sets if len(ids)), default=0), dtype=np.int64
    )
    for ids in overlap_sets:
        frequency[ids] += 1
    return frequency


def _exact_blocks(
    overlap_sets: Sets, sizes: NDArray[np.int64], frequency: NDArray[np.int64]
) -> Iterator[tuple[int, Distances]]:
    """(first query, distances of a block of queries to all sets)."""
    num_sets = len(sizes)
    by_frequency = np.argsort(-frequency, kind="stable")[: max(1, MAX_COMMON_BYTES // num_sets)]
    is_common = np.zeros(len(frequency), dtype=bool)
    is_common[by_frequency[frequency[by_frequency] > COMMON_FRACTION * num_sets]] = True
    common = _dense(overlap_sets, is_common)
    rare = _sparse(overlap_sets, ~is_common & (frequency > 1))  # an id of one set is in no intersection
    rare_by_id = rare.T.tocsr()
    for start in range(0, num_sets, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, num_sets)
        shared = (rare[start:stop] @ rare_by_id).toarray()
        queries = torch.from_numpy(common[start:stop]).float()
        for first in range(0, num_sets, CANDIDATE_BLOCK):
            candidates = torch.from_numpy(common[first : first + CANDIDATE_BLOCK]).float()
            shared[:, first : first + CANDIDATE_BLOCK] += (queries @ candidates.T).numpy()
        yield start, jaccard_distance(shared.astype(np.float64), sizes[start:stop, None], sizes)


def _columns(chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The column of each chosen id, in order; -1 for the others."""
    return np.where(chosen, np.cumsum(chosen) - 1, -1).astype(np.int32)


def _dense(overlap_sets: Sets, chosen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Sets x chosen ids, 1 where a set holds an id."""
    column = _columns(chosen)
    matrix = np.zeros((len(overlap_sets), int(chosen.sum())), dtype=np.uint8)
    for row, ids in enumerate(overlap_sets):
        matrix[row, column[ids[chosen[ids]]]] = 1
    return matrix


def _sparse(overlap_sets: Sets, chosen: NDArray[np.bool_]) -> sparse.csr_array:
    """The same, sparse."""
    column = _columns(chosen)
    rows = [column[ids[chosen[ids]]] for ids in overlap_sets]
    starts = np.cumsum([0, *map(len, rows)])
    held = np.concatenate(rows)
    shape = (len(rows), int(chosen.sum()))
    return sparse.csr_array((np.ones(len(held), dtype=np.float32), held, starts), shape=shape)


def _sketched_blocks(
    overlap_sets: Sets, sizes: NDArray[np.int64], frequency: NDArray[np.int64]
) -> Iterator[tuple[int, Distances]]:
    """Like `_exact_blocks`, with distances estimated from sketches.

    |A & B| = <a - m, b - m> + <a, m> + <b, m> - <m, m> with m the mean set. Only the first term is estimated,
    by adding every id with a random sign to one of SKETCH_SIZE sums; what all sets share is counted exactly.
    """
    num_sets, num_ids = len(sizes), len(frequency)
    random = np.random.default_rng(0)
    bucket = random.integers(SKETCH_SIZE, size=num_ids)
    sign = random.choice([-1.0, 1.0], size=num_ids)
    mean = frequency / num_sets
    to_mean = np.array([mean[ids].sum() for ids in overlap_sets], dtype=np.float32)
    sketch = np.empty((num_sets, SKETCH_SIZE), dtype=np.float32)
    for row, ids in enumerate(overlap_sets):
        sketch[row] = np.bincount(bucket[ids], weights=sign[ids], minlength=SKETCH_SIZE)
    centred = torch.from_numpy(sketch - sketch.mean(axis=0))
    for start in range(0, num_sets, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, num_sets)
        shared = (centred[start:stop] @ centred.T).numpy()
        shared += to_mean[start:stop, None] + (to_mean - np.float32(mean @ mean))
        yield (
            start,
            jaccard_distance(shared, sizes[start:stop, None].astype(np.float32), sizes.astype(np.float32)),
        )


def _measure(
    overlap_sets: Sets, sizes: NDArray[np.int64], query: int, candidates: Indices, num_ids: int
) -> Distances:
    """Exact distances of a query to its candidates, inf to all others."""
    distances = np.full(len(sizes), np.inf)
    if len(candidates):
        in_query = np.zeros(num_ids, dtype=bool)
        in_query[overlap_sets[query]] = True
        shared = np.array([np.count_nonzero(in_query[overlap_sets[other]]) for other in candidates])
        distances[candidates] = jaccard_distance(shared, sizes[[query]], sizes[candidates])
    return distances


def _smallest(distances: Distances, count: int) -> Indices:
    """Indices of the `count` smallest finite distances, ascending; equal ones by index."""
    if count < len(distances):
        bound = np.partition(distances, count - 1)[count - 1]
        found = np.flatnonzero((distances <= bound) & np.isfinite(distances))
    else:
        found = np.flatnonzero(np.isfinite(distances))
    return found[np.argsort(distances[found], kind="stable")][:count]
