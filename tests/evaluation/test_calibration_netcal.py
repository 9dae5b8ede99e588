"""netcal as an oracle beside torchmetrics; in a module of its own, because importing it takes seconds.

netcal's bins are [low, high), ours (low, high]: what lies exactly on an edge may be counted elsewhere. netcal's ACE is
another measure than our adaptive ECE: it averages the bins' gaps without weights. netcal's own counterpart is its ECE
with `equal_intervals=False`; where all bins hold equally many items, all three are one number.
"""

import numpy as np
import pytest

from neuron_opsd.evaluation import calibration as cal


def scores(size, *, seed, power=2):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0, 1, size)
    return confidence, (generator.random(size) < confidence**power).astype(float)


def netcal(metric, num_bins, confidence, correct, **options):
    import netcal.metrics  # with the first test: other processes of pytest do without

    return float(
        getattr(netcal.metrics, metric)(num_bins, **options).measure(confidence, correct.astype(int))
    )


RANDOM = [scores(size, seed=seed) for seed, size in enumerate((1, 2, 7, 60, 500, 3000))]
DEGENERATE = {
    "all right": (np.linspace(0.51, 0.97, 12), np.ones(12)),
    "all wrong": (np.linspace(0.51, 0.97, 12), np.zeros(12)),
    "one confidence": (np.full(20, 0.64), np.arange(20) % 2.0),
    "sure and right": (np.ones(9), np.ones(9)),
    "sure and wrong": (np.ones(9), np.zeros(9)),
    "no confidence at all": (np.zeros(9), np.array([1.0] + [0.0] * 8)),
    "both ends": (np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])),
    "votes of eight": (np.arange(80) % 9 / 8, (np.arange(80) % 3 > 0).astype(float)),
}


@pytest.mark.parametrize("num_bins", [10, 15])
@pytest.mark.parametrize(("theirs", "ours"), [("ECE", cal.ece), ("MCE", cal.mce)])
@pytest.mark.parametrize("items", [*RANDOM, *DEGENERATE.values()])
def test_equal_width_errors_agree(items, theirs, ours, num_bins):
    assert ours(*items, num_bins=num_bins) == pytest.approx(netcal(theirs, num_bins, *items), abs=1e-9)


@pytest.mark.parametrize(("size", "num_bins"), [(60, 10), (500, 10), (3000, 10), (3000, 15), (40, 5)])
def test_adaptive_ece_is_netcals_ece_over_quantile_bins(size, num_bins):
    items = scores(size, seed=size)
    ours = cal.adaptive_ece(*items, num_bins=num_bins)
    assert ours == pytest.approx(netcal("ECE", num_bins, *items, equal_intervals=False), abs=1e-9)
    # Bins of equally many: the mean over bins, with or without weights, is the same.
    assert ours == pytest.approx(netcal("ACE", num_bins, *items, equal_intervals=False), abs=1e-9)


def test_netcals_ace_is_another_measure_where_bins_differ_in_size():
    """Nine items right where they say .95, one wrong where it says .55: .9 x .05 + .1 x .55, or the plain mean."""
    confidence, correct = np.array([0.95] * 9 + [0.55]), np.array([1.0] * 9 + [0.0])
    assert cal.adaptive_ece(confidence, correct, num_bins=10) == pytest.approx(0.9 * 0.05 + 0.1 * 0.55)
    assert netcal("ACE", 10, confidence, correct) == pytest.approx((0.05 + 0.55) / 2)


def test_weights_of_a_bootstrap_are_repeated_items():
    confidence, correct = scores(80, seed=5)
    counts = np.random.default_rng(6).multinomial(80, np.full(80, 1 / 80))
    repeated = np.repeat(confidence, counts), np.repeat(correct, counts)
    for theirs, ours in (("ECE", cal.ece), ("MCE", cal.mce)):
        value = ours(confidence, correct, weights=counts.astype(float))
        assert value == pytest.approx(netcal(theirs, 15, *repeated), abs=1e-9)
