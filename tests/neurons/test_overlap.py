"""Nearest neighbours: by hand, against pairwise sets, ties, exclusions, few candidates, the binary index."""

import sys

import numpy as np
import pytest

from neuron_opsd.errors import ConfigError
from neuron_opsd.neurons import candidates, overlap
from neuron_opsd.neurons.overlap import jaccard_distance, nearest_neighbours


def ids(*values):
    return np.array(values, dtype=np.int32)


def random_sets(num_sets, *, num_ids=400, seed=0, topics=5):
    """Sets of unlike sizes with common and rare ids, so that the dense and the sparse part both matter."""
    random = np.random.default_rng(seed)
    chance = np.minimum(1, 20 / (1 + np.arange(num_ids)))
    chances = [np.clip(chance * random.lognormal(size=num_ids), 0, 0.95) for _ in range(topics)]
    return [
        np.flatnonzero(random.random(num_ids) < chances[i % topics]).astype(np.int32) for i in range(num_sets)
    ]


def brute_force(sets, num_neighbours, *, exclude=lambda _: ()):
    rows, sets = [], [set(one.tolist()) for one in sets]
    for query, mine in enumerate(sets):
        pairs, left_out = [], set(exclude(query))
        for other, theirs in enumerate(sets):
            if other != query and other not in left_out:
                union = len(mine | theirs)
                pairs.append((1 - len(mine & theirs) / union if union else 1.0, other))
        rows.append(sorted(pairs)[:num_neighbours])
    return rows


def as_rows(indices, distances):
    return [
        [(distance, index) for index, distance in zip(*row, strict=True) if index >= 0]
        for row in zip(indices.tolist(), distances.tolist(), strict=True)
    ]


def test_by_hand():
    sets = [ids(1, 2, 3, 4), ids(3, 4, 5, 6), ids(1, 2, 3), ids(9)]
    indices, distances = nearest_neighbours(sets, 2)
    # |0 & 1| = 2 of 6; |0 & 2| = 3 of 4; |1 & 2| = 1 of 6; 3 shares nothing: the lower index first.
    assert indices.tolist() == [[2, 1], [0, 2], [0, 1], [0, 1]]
    np.testing.assert_allclose(distances, [[1 / 4, 2 / 3], [2 / 3, 5 / 6], [1 / 4, 5 / 6], [1, 1]])


@pytest.mark.parametrize("common_fraction", [0.0, 0.1, 1.0], ids=["dense", "both", "sparse"])
@pytest.mark.parametrize("num_neighbours", [1, 10, 59, 80])
def test_equals_all_pairs(common_fraction, num_neighbours, monkeypatch):
    monkeypatch.setattr(overlap, "COMMON_FRACTION", common_fraction)
    monkeypatch.setattr(overlap, "QUERY_BLOCK", 7)
    monkeypatch.setattr(overlap, "CANDIDATE_BLOCK", 11)
    sets = random_sets(60)
    indices, distances = nearest_neighbours(sets, num_neighbours)
    assert indices.shape == distances.shape == (60, num_neighbours)
    assert as_rows(indices, distances) == brute_force(sets, num_neighbours)  # to the last bit


def test_little_memory_for_common_ids_changes_nothing(monkeypatch):
    sets = random_sets(40)
    expected = nearest_neighbours(sets, 5)
    monkeypatch.setattr(overlap, "MAX_COMMON_BYTES", 100)  # two ids
    for left, right in zip(nearest_neighbours(sets, 5), expected, strict=True):
        np.testing.assert_array_equal(left, right)


def test_ties_take_the_lower_index_even_when_fractions_differ():
    # Distance 1/2 to each: 1 of 2, 2 of 4, 3 of 6.
    sets = [ids(1, 2, 3), ids(1, 2, 3, 4, 5, 6), ids(1, 2, 9), ids(2, 3, 8), ids(1, 2, 3, 7, 8, 9)]
    indices, distances = nearest_neighbours(sets, 4)
    assert indices[0].tolist() == [1, 2, 3, 4]
    assert distances[0].tolist() == [0.5] * 4
    same = [ids(4, 5)] * 30
    assert nearest_neighbours(same, 3)[0][:2].tolist() == [[1, 2, 3], [0, 2, 3]]


def test_the_order_of_ids_within_a_set_does_not_matter():
    sets = random_sets(20)
    shuffled = [np.random.default_rng(0).permutation(one) for one in sets]
    for left, right in zip(nearest_neighbours(sets, 5), nearest_neighbours(shuffled, 5), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("kind", ["callable", "lists", "arrays"])
@pytest.mark.parametrize("num_candidates", [None, 30])
def test_exclusions(kind, num_candidates):
    sets = random_sets(30)

    def other_domains(query):
        return [other for other in range(30) if other % 3 != query % 3]

    exclude = {
        "callable": other_domains,
        "lists": [other_domains(query) for query in range(30)],
        "arrays": [np.array(other_domains(query)) for query in range(30)],
    }[kind]
    found = nearest_neighbours(sets, 4, exclude=exclude, num_candidates=num_candidates)
    assert as_rows(*found) == brute_force(sets, 4, exclude=other_domains)


def test_fewer_candidates_than_wanted_is_normal():
    sets = random_sets(3)
    indices, distances = nearest_neighbours(sets, 5)
    assert (indices[:, 2:] == -1).all()
    assert np.isinf(distances[:, 2:]).all()
    nobody = nearest_neighbours(sets, 2, exclude=lambda _: range(3))
    assert (nobody[0] == -1).all()
    for few in ([], [ids(1)]):
        indices, distances = nearest_neighbours(few, 2)
        assert indices.shape == distances.shape == (len(few), 2)
        assert (indices == -1).all()
    assert nearest_neighbours(sets, 0)[0].shape == (3, 0)


@pytest.mark.parametrize("num_candidates", [None, 5])
def test_empty_sets_are_near_to_nothing(num_candidates):
    indices, distances = nearest_neighbours(
        [ids(), ids(1, 2), ids(), ids(1)], 3, num_candidates=num_candidates
    )
    assert distances[0].tolist() == [1.0, 1.0, 1.0]
    assert (indices[1, 0], distances[1, 0]) == (3, 0.5)
    assert nearest_neighbours([ids(), ids()], 1)[1].tolist() == [[1.0], [1.0]]


def recall(found, exact):
    return np.mean([len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(found, exact, strict=True)])


def test_the_index_measures_its_candidates_exactly_and_finds_most(monkeypatch):
    monkeypatch.setattr(candidates, "NUM_BITS", 400)
    sets = random_sets(300, num_ids=3_000, topics=6)
    exact_indices, exact_distances = nearest_neighbours(sets, 10)
    indices, distances = nearest_neighbours(sets, 10, num_candidates=50)
    assert recall(indices, exact_indices) > 0.9
    for query in range(300):
        for index, distance in zip(indices[query], distances[query], strict=True):
            shared = len(np.intersect1d(sets[query], sets[index]))
            assert distance == 1 - shared / (len(sets[query]) + len(sets[index]) - shared)
    assert (distances >= exact_distances).all()
    everyone = nearest_neighbours(sets, 10, num_candidates=300)
    np.testing.assert_array_equal(everyone[0], exact_indices)


def test_the_padding_corrects_for_sizes(monkeypatch):
    """Without it, Hamming distance prefers small sets: 10 of 30 ids shared with a set of 12 beats 20 with 40."""
    mine = np.arange(30)
    small, large = np.append(np.arange(10), [90, 91]), np.append(np.arange(24), np.arange(40, 62))
    sets = [mine, small, large]  # distances 1 - 10/32 and 1 - 24/52; Hamming 22 and 28
    assert nearest_neighbours(sets, 1)[0][0, 0] == 2
    assert nearest_neighbours(sets, 1, queries=[0], num_candidates=1)[0][0, 0] == 2


def test_the_approximate_search_is_deterministic():
    sets = random_sets(100)
    first, second = (nearest_neighbours(sets, 5, num_candidates=10) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("num_candidates", [None, 30])
def test_some_queries_have_the_rows_they_have_among_all(num_candidates):
    sets = random_sets(40)
    indices, distances = nearest_neighbours(sets, 4, num_candidates=num_candidates)
    wanted = [31, 2, 17]
    some = nearest_neighbours(sets, 4, queries=wanted, num_candidates=num_candidates)
    np.testing.assert_array_equal(some[0], indices[wanted])
    np.testing.assert_array_equal(some[1], distances[wanted])
    assert nearest_neighbours(sets, 4, queries=[])[0].shape == (0, 4)


def test_the_ids_that_tell_most_become_bits():
    # In 4 of 4 sets, 3, 2 and 1 of them: p^2 (1 - p^2) is 0, .246, .1875, .059.
    ids_by_worth = candidates._informative_ids(np.array([4, 1, 2, 3]), 4)
    assert ids_by_worth.tolist() == [3, 2, 1, 0]


def test_without_faiss_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install"):
        nearest_neighbours(random_sets(5), 1, num_candidates=2)


def test_distance_from_counts():
    shared, size, other = np.array([0, 2, 3, 0]), np.array([3, 4, 3, 0]), np.array([2, 4, 3, 0])
    np.testing.assert_allclose(jaccard_distance(shared, size, other), [1, 1 - 2 / 6, 0, 1])
