"""k-medoids against every choice of k questions, on small distance matrices."""

from itertools import combinations

import numpy as np
import pytest

from neuron_opsd.neurons.medoids import k_medoids
from neuron_opsd.neurons.overlap import pairwise_distances


def test_three_groups_have_a_medoid_each():
    points = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 9.0, 9.1, 9.2])
    distances = np.abs(points[:, None] - points)
    assert sorted(k_medoids(distances, 3)) == [1, 4, 7]


@pytest.mark.parametrize("seed", range(5))
def test_no_single_swap_lowers_the_sum(seed):
    sets = [
        np.sort(np.random.default_rng(100 * seed + i).choice(60, 12, replace=False)).astype(np.int32)
        for i in range(12)
    ]
    distances = pairwise_distances(sets)
    chosen = k_medoids(distances, 3)
    total = distances[chosen].min(axis=0).sum()
    for kept in combinations(chosen, 2):
        for other in range(12):
            assert total <= distances[[*kept, other]].min(axis=0).sum() + 1e-9


def test_pairwise_distances_are_one_minus_intersection_over_union():
    sets = [np.array(ids, dtype=np.int32) for ids in ([1, 2, 3], [2, 3, 4, 5], [9])]
    np.testing.assert_allclose(pairwise_distances(sets), [[0, 0.6, 1], [0.6, 0, 1], [1, 1, 0]])


def test_more_medoids_than_questions_are_all_questions():
    assert sorted(k_medoids(np.ones((2, 2)) - np.eye(2), 5)) == [0, 1]
