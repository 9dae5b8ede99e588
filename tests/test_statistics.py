import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neuron_opsd.statistics import (
    bootstrap_draws,
    bootstrap_interval,
    bootstrap_p_value,
    holm,
    paired_mean_difference,
    pearson,
    spearman,
)

FLOATS = st.integers(-800, 800).map(lambda n: n / 8)


def test_bootstrap_weights_are_resamples_of_the_items():
    seen = []
    draws = bootstrap_draws(
        lambda w: (seen.append(w), {"total": w.sum(axis=1)})[1], num_items=7, num_resamples=600, seed=0
    )
    assert draws["total"].shape == (600,)
    assert (draws["total"] == 7).all()
    assert max(len(weights) for weights in seen) <= 256  # memory stays bounded


def test_interval_of_a_mean_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=120)
    ours = paired_mean_difference(np.zeros(120), values, num_resamples=4000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_paired_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        difficulty = generator.normal(size=60)
        before, after = difficulty + generator.normal(size=60), difficulty + 0.3 + generator.normal(size=60)
        covered += paired_mean_difference(before, after, num_resamples=400, seed=trial).covers(0.3)
    assert 0.89 <= covered / 200 <= 0.99


def test_pairing_makes_the_interval_narrower():
    generator = np.random.default_rng(4)
    difficulty = 10 * generator.normal(size=100)
    before, after = difficulty + generator.normal(size=100), difficulty + generator.normal(size=100)
    paired = paired_mean_difference(before, after, seed=0)
    unpaired = paired_mean_difference(before, after[::-1], seed=0)
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 3


def test_biased_statistic_keeps_its_estimate_inside_the_interval():
    interval = bootstrap_interval(0.02, np.array([0.05, 0.06, 0.07, 0.08]))
    assert interval.low <= 0.02 <= interval.high
    assert interval.high < 0.05


def test_no_items_and_no_finite_draw_give_no_interval():
    assert np.isnan(paired_mean_difference(np.array([]), np.array([])).low)
    assert not bootstrap_interval(0.5, np.array([np.nan])).covers(0.5)


def test_same_seed_same_interval():
    values = np.arange(30.0)
    first, second, other = (paired_mean_difference(values * 0, values, seed=s) for s in (5, 5, 6))
    assert first == second
    assert first != other


def test_correlations_agree_with_scipy():
    generator = np.random.default_rng(7)
    first = generator.normal(size=50)
    second = first + generator.normal(size=50)
    theirs = stats.pearsonr(first, second)
    ours = pearson(first, second)
    assert ours.value == pytest.approx(theirs.statistic)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert spearman(first, second).value == pytest.approx(stats.spearmanr(first, second).statistic)


def test_pearson_by_hand():
    assert pearson(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])).value == pytest.approx(0.8)


@pytest.mark.parametrize("correlate", [pearson, spearman])
def test_constant_or_short_input_has_no_correlation(correlate):
    assert np.isnan(correlate(np.ones(10), np.arange(10)).value)
    assert np.isnan(correlate(np.array([1.0]), np.array([2.0])).value)
    assert np.isnan(correlate(np.arange(3), np.array([1, 3, 2])).low)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=5, max_size=40))
def test_correlation_laws(pairs):
    first, second = np.array(pairs).T
    for correlate in (pearson, spearman):
        there, back = correlate(first, second), correlate(second, first)
        if np.isfinite(there.value):
            assert there.value == pytest.approx(back.value)
            assert -1 <= there.low <= there.value <= there.high <= 1
    if np.isfinite(spearman(first, second).value):
        assert spearman(first, 3 * second + 1).value == pytest.approx(spearman(first, second).value, abs=1e-9)


def test_holm_by_hand() -> None:
    # sorted .01 .03 .04: 3 x .01 = .03; 2 x .03 = .06; 1 x .04 = .04, raised to .06
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_bootstrap_p_value_by_hand() -> None:
    draws = np.array([0.1] * 97 + [-0.3] * 3)  # 3 of 100 on the far side: 2 (3 + 1) / 101
    assert bootstrap_p_value(draws, float(draws.mean())) == pytest.approx(8 / 101)
    assert bootstrap_p_value(np.zeros(50), 0.0) == 1.0
