"""The map: classical scaling by its own definition, signs, both solvers, nothing to show, captions."""

import numpy as np
import pytest
from made_up_run import made_up_run

from neuron_opsd.records import NeuronSets
from neuron_opsd.report import neuron_figures
from neuron_opsd.report.neuron_figures import plane_of, pool_map


def random_sets(count, *, seed=0, num_ids=60):
    random = np.random.default_rng(seed)
    chances = random.random((3, num_ids)) ** 2
    return [np.flatnonzero(random.random(num_ids) < chances[i % 3]).astype(np.int32) for i in range(count)]


def classical_scaling(sets):
    """Torgerson's recipe: double-centre the squared distances, take the two largest eigenvectors."""
    hamming = np.array([[len(set(a) ^ set(b)) for b in sets] for a in sets], dtype=float)
    centring = np.eye(len(sets)) - 1 / len(sets)
    values, vectors = np.linalg.eigh(-0.5 * centring @ hamming @ centring)
    return vectors[:, [-1, -2]] * np.sqrt(values[[-1, -2]]), values[[-1, -2]] / values.clip(0).sum()


@pytest.mark.parametrize("max_dense", [500, 0], ids=["dense", "iterative"])
def test_points_are_those_of_classical_scaling(max_dense, monkeypatch):
    monkeypatch.setattr(neuron_figures, "MAX_DENSE", max_dense)
    sets = random_sets(40)
    points, shares = plane_of(sets)
    expected, expected_shares = classical_scaling(sets)
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-6)
    np.testing.assert_allclose(shares, expected_shares, atol=1e-9)
    assert (points[np.abs(points).argmax(axis=0), [0, 1]] > 0).all()


def test_equal_sets_fall_on_one_point_and_distances_are_the_square_roots_of_hamming():
    sets = [np.array([0, 1]), np.array([0, 1]), np.array([2, 3]), np.array([2, 3])]
    points, shares = plane_of(sets)
    np.testing.assert_allclose(points[0], points[1], atol=1e-9)
    assert abs(points[0, 0] - points[2, 0]) == pytest.approx(2.0)  # four ids differ
    np.testing.assert_allclose(shares, [1, 0], atol=1e-9)


@pytest.mark.parametrize("sets", [[], [np.array([1])], [np.array([1, 2])] * 5, [np.array([], dtype=int)] * 5])
def test_nothing_to_show(sets):
    points, shares = plane_of(sets)
    assert points.shape == (len(sets), 2)
    assert shares.sum() == 0


def records(count):
    return [
        NeuronSets(
            question_id=f"q{number}",
            rollout_index=0,
            num_completion_tokens=1,
            num_chunks=1,
            consensus_score=1,
            consensus_score_per_chunk=1.0,
            neurons_per_layer=(1,),
            overlap_set=ids,
        )
        for number, ids in enumerate(random_sets(count))
    ]


def test_the_figure_names_counts_and_is_the_same_each_time(monkeypatch):
    figure = pool_map(records(30), {"q3", "q4"})
    assert figure is not None
    assert "30 questions, 2 of them selected" in figure.description
    assert figure == pool_map(records(30), {"q3", "q4"})
    assert figure.svg.count("h0") == 30
    monkeypatch.setattr(neuron_figures, "MAX_DOTS", 10)
    few = pool_map(records(30), {"q3", "q4"})
    assert few is not None
    assert few.svg.count("h0") == 10
    assert "Of 30 questions one in 3" in few.caption
    assert "10 questions, 1 of them selected" in few.description


def test_a_run_whose_sets_are_all_equal_has_no_map():
    assert pool_map(made_up_run().neuron_sets, set()) is None
