"""Nearest neighbours by Jaccard distance of overlap sets (docs/method.md, section 5).

    distance(A, B) = 1 - |A & B| / |A | B|

Exact, without an N x N matrix. A few thousand neurons are in a large share of all sets and make most of the
work. The rest are many and rare. So the common ones become columns of a 0/1 matrix, whose products a matrix
multiplication counts exactly (in float32, up to 2^24), and the rare ones stay sparse. One block of queries is
held at a time.

For pools beyond some ten thousand sets: `queries` asks for the neighbours of some sets alone, and
`num_candidates` measures only that many candidates of a binary index (`candidates.py`): the distances stay
exact, a neighbour may be missed.
"""

# scipy has no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from neuron_opsd.neurons.candidates import shared_with_candidates

Exclude = Callable[[int], Iterable[SupportsIndex]] | Sequence[Iterable[SupportsIndex]]
Sets = Sequence[NDArray[np.integer]]
Distances = NDArray[np.floating]
Indices = NDArray[np.integer]

QUERY_BLOCK = 512
CANDIDATE_BLOCK = 2_048
COMMON_FRACTION = 0.07  # ids in a larger share of the sets are multiplied densely: where the two costs meet
MAX_COMMON_BYTES = 500_000_000


def nearest_neighbours(
    overlap_sets: Sets,
    num_neighbours: int,
    *,
    queries: Sequence[int] | None = None,
    exclude: Exclude | None = None,
    num_candidates: int | None = None,
) -> tuple[Indices, Distances]:
    """The `num_neighbours` other sets nearest to each query, nearest first.

    Args:
        overlap_sets: Neuron ids of each set, without repeats, in any order.
        num_neighbours: At most so many. A set never is its own neighbour.
        queries: Indices of the sets whose neighbours are wanted, and the order of the rows. None for all.
        exclude: Further indices that must not be neighbours of set i: `exclude(i)` or `exclude[i]`.
        num_candidates: None for the exact search, else so many candidates a query are measured exactly.

    Returns:
        (indices, distances), both (queries, num_neighbours). Equal distances: the lower index first. Where
        fewer candidates exist the rest of the row is -1 and inf. Two empty sets share no neuron: their
        distance is 1.
    """
    num_sets = len(overlap_sets)
    wanted = np.arange(num_sets) if queries is None else np.asarray(queries, dtype=np.int64)
    indices = np.full((len(wanted), num_neighbours), -1, dtype=np.int64)
    distances = np.full((len(wanted), num_neighbours), np.inf)
    if num_sets < 2 or num_neighbours < 1 or not len(wanted):
        return indices, distances
    sizes = np.array([len(ids) for ids in overlap_sets], dtype=np.int64)
    frequency = _frequency(overlap_sets)
    left_out = _left_out(exclude)
    if num_candidates is None:
        found = _exact(overlap_sets, sizes, frequency, wanted, left_out)
    else:
        count = max(num_candidates, num_neighbours)
        found = _approximate(overlap_sets, sizes, frequency, wanted, count, left_out)
    for place, (candidates, row) in enumerate(found):
        best = _smallest(row, num_neighbours)
        indices[place, : len(best)] = best if candidates is None else candidates[best]
        distances[place, : len(best)] = row[best]
    return indices, distances


def pairwise_distances(overlap_sets: Sets) -> Distances:
    """(sets, sets): the distance of each set to each, 0 to itself."""
    sizes = np.array([len(ids) for ids in overlap_sets], dtype=np.int64)
    blocks = _exact_blocks(overlap_sets, sizes, _frequency(overlap_sets), np.arange(len(sizes)))
    found = np.concatenate(list(blocks))
    np.fill_diagonal(found, 0.0)
    return found


def jaccard_distance(shared: NDArray[Any], size: NDArray[Any], other_size: NDArray[Any]) -> Distances:
    """1 - |A & B| / |A | B| from counts, 1 where both are empty."""
    return 1.0 - shared / np.maximum(size + other_size - shared, 1)


def _left_out(exclude: Exclude | None) -> Callable[[int], Indices]:
    """Indices that must not be neighbours of a query, itself first."""

    def of(query: int) -> Indices:
        if exclude is None:
            return np.array([query])
        others = exclude(query) if callable(exclude) else exclude[query]
        return np.append(query, np.fromiter(others, dtype=np.int64))

    return of


def _exact(
    overlap_sets: Sets,
    sizes: NDArray[np.int64],
    frequency: NDArray[np.int64],
    queries: Indices,
    left_out: Callable[[int], Indices],
) -> Iterator[tuple[None, Distances]]:
    """Each query's distances to all sets, inf where a set must not be its neighbour."""
    rows = (row for block in _exact_blocks(overlap_sets, sizes, frequency, queries) for row in block)
    for query, row in zip(queries, rows, strict=True):
        row[left_out(int(query))] = np.inf
        yield None, row


def _approximate(
    overlap_sets: Sets,
    sizes: NDArray[np.int64],
    frequency: NDArray[np.int64],
    queries: Indices,
    num_candidates: int,
    left_out: Callable[[int], Indices],
) -> Iterator[tuple[Indices, Distances]]:
    """Each query's candidates, ascending, and its distances to them."""
    found = shared_with_candidates(overlap_sets, frequency, queries, num_candidates, left_out=left_out)
    for query, (candidates, shared) in zip(queries, found, strict=True):
        yield candidates, jaccard_distance(shared, sizes[[query]], sizes[candidates])


def _frequency(overlap_sets: Sets) -> NDArray[np.int64]:
    """In how many sets each id is."""
    frequency = np.zeros(
        1 + max((int(ids.max()) for ids in overlap_sets if len(ids)), default=0), dtype=np.int64
    )
    for ids in overlap_sets:
        frequency[ids] += 1
    return frequency


def _exact_blocks(
    overlap_sets: Sets, sizes: NDArray[np.int64], frequency: NDArray[np.int64], queries: Indices
) -> Iterator[Distances]:
    """Distances of a block of queries to all sets, block after block."""
    num_sets = len(sizes)
    by_frequency = np.argsort(-frequency, kind="stable")[: max(1, MAX_COMMON_BYTES // num_sets)]
    is_common = np.zeros(len(frequency), dtype=bool)
    is_common[by_frequency[frequency[by_frequency] > COMMON_FRACTION * num_sets]] = True
    common = _dense(overlap_sets, is_common)
    rare = _sparse(overlap_sets, ~is_common & (frequency > 1))  # an id of one set is in no intersection
    rare_by_id = cast("sparse.csr_array", rare.T.tocsr())
    for block in _query_blocks(queries):
        shared = cast("NDArray[np.float32]", (rare[block] @ rare_by_id).toarray())
        asked = torch.from_numpy(common[block]).float()
        for first in range(0, num_sets, CANDIDATE_BLOCK):
            candidates = torch.from_numpy(common[first : first + CANDIDATE_BLOCK]).float()
            shared[:, first : first + CANDIDATE_BLOCK] += (asked @ candidates.T).numpy()
        yield jaccard_distance(shared.astype(np.float64), sizes[block, None], sizes)


def _query_blocks(queries: Indices) -> Iterator[Indices]:
    return (queries[start : start + QUERY_BLOCK] for start in range(0, len(queries), QUERY_BLOCK))


def _columns(chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The column of each chosen id, in order. -1 for the others."""
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


def _smallest(distances: Distances, count: int) -> Indices:
    """Indices of the `count` smallest finite distances, ascending. Equal ones by index."""
    if count < len(distances):
        bound = np.partition(distances, count - 1)[count - 1]
        found = np.flatnonzero((distances <= bound) & np.isfinite(distances))
    else:
        found = np.flatnonzero(np.isfinite(distances))
    return found[np.argsort(distances[found], kind="stable")][:count]
