"""Nearest neighbours by Jaccard distance of overlap sets (docs/method.md, section 5).

    distance(A, B) = 1 - |A & B| / |A | B|

Exact, without an N x N matrix. A few thousand neurons lie in a large share of all sets and make most of the
work; the rest are many and rare. So the common ones become columns of a 0/1 matrix, whose products a matrix
multiplication counts exactly (in float32, up to 2^24), and the rare ones stay sparse. One block of queries
is held at a time.

For pools beyond some ten thousand sets, `num_candidates` first ranks by a sketch and then measures only
that many candidates of each query exactly: the distances stay exact, a neighbour may be missed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

Exclude = Callable[[int], Iterable[int]] | Sequence[Iterable[int]]
Distances = NDArray[np.float64]
Indices = NDArray[np.int64]

QUERY_BLOCK = 512
CANDIDATE_BLOCK = 2_048
COMMON_FRACTION = 0.05  # ids in a larger share of the sets are multiplied densely: where the two costs meet
MAX_COMMON_BYTES = 500_000_000
SKETCH_SIZE = 1_024


def nearest_neighbours(
    overlap_sets: Sequence[NDArray[np.int32]],
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
    sizes = np.array([len(ids) for ids in overlap_sets], dtype=np.int64)
    indices = np.full((len(sizes), num_neighbours), -1, dtype=np.int64)
    distances = np.full((len(sizes), num_neighbours), np.inf)
    if len(sizes) < 2 or num_neighbours < 1:
        return indices, distances
    members = _as_matrix(overlap_sets, sizes)
    search = _exact_blocks(members, sizes) if num_candidates is None else _sketch_blocks(members, sizes)
    for start, block in search:
        for row, candidates in enumerate(block):
            query = start + row
            candidates[query] = np.inf
            if exclude is not None:
                left_out = exclude(query) if callable(exclude) else exclude[query]
                candidates[np.fromiter(left_out, dtype=np.int64)] = np.inf
            if num_candidates is not None:
                candidates = _measure_best(
                    members, sizes, query, candidates, max(num_candidates, num_neighbours)
                )
            best = _smallest(candidates, num_neighbours)
            indices[query, : len(best)] = best
            distances[query, : len(best)] = candidates[best]
    return indices, distances


def jaccard_distance(intersection: NDArray, size: NDArray, other_size: NDArray) -> Distances:
    """1 - |A & B| / |A | B| from counts; 1 where both are empty."""
    return 1.0 - intersection / np.maximum(size + other_size - intersection, 1)


def _as_matrix(overlap_sets: Sequence[NDArray[np.int32]], sizes: NDArray[np.int64]) -> sparse.csr_array:
    """Sets x ids, 1 where a set holds an id. An id of one set alone is in no intersection: left out."""
    flat = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in overlap_sets])
    frequency = np.bincount(flat)
    shared = frequency > 1
    column = np.cumsum(shared) - 1
    kept = shared[flat]
    rows = np.repeat(np.arange(len(sizes)), sizes)[kept]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(sizes)))])
    ones = np.ones(len(rows), dtype=np.float32)
    return sparse.csr_array(
        (ones, column[flat[kept]].astype(np.int32), starts), shape=(len(sizes), int(shared.sum()))
    )


def _exact_blocks(members: sparse.csr_array, sizes: NDArray[np.int64]) -> Iterator[tuple[int, Distances]]:
    """(first query, distances of a block of queries to all sets)."""
    common, rare = _split_by_frequency(members)
    rare_by_id = rare.T.tocsr()
    for start in range(0, len(sizes), QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, len(sizes))
        shared = (rare[start:stop] @ rare_by_id).toarray()
        queries = torch.from_numpy(common[start:stop]).float()
        for first in range(0, len(sizes), CANDIDATE_BLOCK):
            candidates = torch.from_numpy(common[first : first + CANDIDATE_BLOCK]).float()
            shared[:, first : first + CANDIDATE_BLOCK] += (queries @ candidates.T).numpy()
        yield start, jaccard_distance(shared.astype(np.float64), sizes[start:stop, None], sizes[None, :])


def _split_by_frequency(members: sparse.csr_array) -> tuple[NDArray[np.uint8], sparse.csr_array]:
    """The columns of common ids as a dense 0/1 matrix, the others as they are."""
    num_sets = members.shape[0]
    frequency = np.bincount(members.indices, minlength=members.shape[1])
    most = min(members.shape[1], max(1, MAX_COMMON_BYTES // num_sets))
    order = np.argsort(-frequency, kind="stable")[:most]
    chosen = np.sort(order[frequency[order] > COMMON_FRACTION * num_sets])
    is_common = np.zeros(members.shape[1], dtype=bool)
    is_common[chosen] = True
    by_id = members.tocsc()
    common = np.zeros((num_sets, len(chosen)), dtype=np.uint8)
    picked = by_id[:, chosen].tocoo()
    common[picked.row, picked.col] = 1
    return common, by_id[:, ~is_common].tocsr()


def _sketch_blocks(members: sparse.csr_array, sizes: NDArray[np.int64]) -> Iterator[tuple[int, Distances]]:
    """Like `_exact_blocks`, with distances estimated from sketches.

    |A & B| = <a - m, b - m> + <a, m> + <b, m> - <m, m> with m the mean set: only the first term is
    estimated, by adding every id with a random sign to one of SKETCH_SIZE sums. What all sets share is thus
    counted exactly.
    """
    num_sets, num_ids = members.shape
    random = np.random.default_rng(0)
    buckets, signs = random.integers(SKETCH_SIZE, size=num_ids), random.choice([-1.0, 1.0], size=num_ids)
    hashing = sparse.csr_array(
        (signs.astype(np.float32), (np.arange(num_ids), buckets)), shape=(num_ids, SKETCH_SIZE)
    )
    sketch = (members @ hashing).toarray()
    mean = np.bincount(members.indices, minlength=num_ids) / num_sets
    sketch -= sketch.mean(axis=0)
    centred = torch.from_numpy(sketch)
    to_mean = members @ mean
    for start in range(0, num_sets, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, num_sets)
        shared = (centred[start:stop] @ centred.T).numpy().astype(np.float64)
        shared += to_mean[start:stop, None] + to_mean[None, :] - mean @ mean
        yield start, jaccard_distance(shared, sizes[start:stop, None], sizes[None, :])


def _measure_best(
    members: sparse.csr_array, sizes: NDArray[np.int64], query: int, estimates: Distances, num_measured: int
) -> Distances:
    """Exact distances of the candidates that the estimates put first, inf for all others."""
    measured = np.sort(_smallest(estimates, num_measured))
    in_query = np.zeros(members.shape[1], dtype=np.float32)
    in_query[members.indices[members.indptr[query] : members.indptr[query + 1]]] = 1
    shared = members[measured] @ in_query
    distances = np.full(len(sizes), np.inf)
    distances[measured] = jaccard_distance(shared.astype(np.float64), sizes[query], sizes[measured])
    return distances


def _smallest(distances: Distances, count: int) -> Indices:
    """Indices of the `count` smallest finite distances, ascending; equal ones by index."""
    if count < len(distances):
        bound = np.partition(distances, count - 1)[count - 1]
        found = np.flatnonzero((distances <= bound) & np.isfinite(distances))
    else:
        found = np.flatnonzero(np.isfinite(distances))
    return found[np.argsort(distances[found], kind="stable")][:count]
