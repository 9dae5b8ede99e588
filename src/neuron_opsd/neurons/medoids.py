"""The k questions that stand for a pool: the k-medoids of its overlap sets (PAM, Kaufman and Rousseeuw 1987).

    least  sum over questions of the distance to the nearest medoid

They are built greedily, then each is swapped for another question while that lowers the sum. No random state.
"""

import numpy as np
from numpy.typing import NDArray

Distances = NDArray[np.floating]

MAX_SETS = 2_000  # the matrix of their distances takes 32 MB


def k_medoids(distances: Distances, k: int) -> list[int]:
    """The medoids, the one that lowers the sum most first. At most as many as there are questions.

    Args:
        distances: (questions, questions), symmetric.
        k: How many.
    """
    medoids: list[int] = []
    nearest = np.full(len(distances), np.inf)
    for _ in range(min(k, len(distances))):
        sums = np.minimum(distances, nearest).sum(axis=1)
        sums[medoids] = np.inf
        medoids.append(int(sums.argmin()))
        nearest = np.minimum(nearest, distances[medoids[-1]])
    while _swap(distances, medoids):
        pass
    return medoids


def _swap(distances: Distances, medoids: list[int]) -> bool:
    """Put another question in one medoid's place, where that lowers the sum most. Whether it did."""
    if not medoids:
        return False
    total = distances[medoids].min(axis=0).sum()
    best: tuple[float, int, int] = (total * (1 - 1e-9), -1, -1)  # less would be rounding
    for place in range(len(medoids)):
        others = medoids[:place] + medoids[place + 1 :]
        rest = distances[others].min(axis=0) if others else np.full(len(distances), np.inf)
        sums = np.minimum(distances, rest).sum(axis=1)
        best = min(best, (float(sums.min()), place, int(sums.argmin())))
    _, place, question = best
    if place >= 0:
        medoids[place] = question
    return place >= 0
