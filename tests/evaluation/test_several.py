"""pass@k and the expected majority of k samples, by hand and by going through every sequence."""

import itertools

import pytest

from neuron_opsd.evaluation.several import estimated_pass, exact_pass, expected_majority


@pytest.mark.parametrize(
    ("num_right", "k", "expected"),
    [(0, 2, 0.0), (1, 1, 0.25), (1, 2, 0.5), (2, 2, 5 / 6), (3, 2, 1.0), (1, 4, 1.0), (4, 1, 1.0)],
)
def test_pass_at_k_of_four_samples(num_right: int, k: int, expected: float) -> None:
    pairs = list(itertools.combinations([True] * num_right + [False] * (4 - num_right), k))
    assert estimated_pass(num_right, 4, k) == pytest.approx(sum(map(any, pairs)) / len(pairs))
    assert estimated_pass(num_right, 4, k) == pytest.approx(expected)


def test_pass_at_k_of_a_known_probability() -> None:
    assert exact_pass(0.25, 1) == 0.25
    assert exact_pass(0.25, 2) == pytest.approx(7 / 16)
    assert exact_pass(1 + 1e-9, 8) == 1.0  # stored probabilities are float32


def voted(probabilities: list[float], k: int) -> float:
    """The chance that the first answer wins, over every sequence of k. Of tied answers the first given wins."""
    total = 0.0
    for sequence in itertools.product(range(len(probabilities)), repeat=k):
        weight = 1.0
        for answer in sequence:
            weight *= probabilities[answer]
        total += weight * (max(dict.fromkeys(sequence), key=sequence.count) == 0)
    return total


@pytest.mark.parametrize(
    ("probabilities", "k"),
    [([0.6, 0.4], 1), ([0.6, 0.4], 2), ([0.3, 0.45, 0.25], 4), ([0.4, 0.3, 0.2, 0.1], 6), ([0.0, 1.0], 3)],
)
def test_the_expected_majority_is_that_of_every_sequence(probabilities: list[float], k: int) -> None:
    right, *others = probabilities
    assert expected_majority(right, others, k) == pytest.approx(voted(probabilities, k))


def test_the_expected_majority_by_hand() -> None:
    # Two of three, or three of three: 3 * .6^2 * .4 + .6^3.
    assert expected_majority(0.6, [0.4], 3) == pytest.approx(0.648)
    # Of two: both right, or one right and given first.
    assert expected_majority(0.6, [0.3, 0.1], 2) == pytest.approx(0.36 + 0.6 * 0.4)
    assert expected_majority(1.0, [], 8) == 1.0
