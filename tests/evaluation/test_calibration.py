import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neuron_opsd.evaluation import calibration as cal


def oracles():
    import torchmetrics.classification  # with the first test: other processes of pytest do without

    return torchmetrics.classification


SHARES = st.integers(0, 8).map(lambda votes: votes / 8)


@st.composite
def scored(draw, elements=SHARES):
    size = draw(st.integers(1, 60))
    confidence = draw(arrays(np.float64, size, elements=elements))
    correct = draw(arrays(np.float64, size, elements=st.sampled_from([0.0, 1.0])))
    return confidence, correct


def random_scores(size=500, seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0, 1, size)
    return confidence, (generator.random(size) < confidence**2).astype(float)


def test_ece_and_mce_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    correct = np.array([1.0, 0.0, 1.0, 1.0])
    assert cal.ece(confidence, correct, num_bins=10) == pytest.approx((0.45 + 0.45) / 2)
    assert cal.mce(confidence, correct, num_bins=10) == pytest.approx(0.45)
    assert cal.overconfidence(confidence, correct) == pytest.approx(0.0)
    assert cal.brier(confidence, correct) == pytest.approx((0.0025 + 0.9025 + 2 * 0.2025) / 4)


def test_opposite_gaps_in_one_bin_cancel_but_not_across_bins():
    assert cal.ece(np.array([0.51, 0.59]), np.array([1.0, 0.0]), num_bins=10) == pytest.approx(0.05)
    assert cal.ece(np.array([0.51, 0.59]), np.array([1.0, 0.0]), num_bins=15) == pytest.approx(0.54)


def test_vote_shares_on_a_bin_edge_fall_below_it():
    assert cal.equal_width_bins(np.array([0.0, 0.5, 0.3, 1.0]), 10).tolist() == [0, 4, 2, 9]
    assert cal.equal_width_bins(np.arange(1, 16) / 15, 15).tolist() == list(range(15))


@pytest.mark.parametrize("num_bins", [5, 10, 15])
@pytest.mark.parametrize(("norm", "measure"), [("l1", cal.ece), ("max", cal.mce)])
def test_agrees_with_torchmetrics(norm, measure, num_bins):
    confidence, correct = random_scores()
    oracle = oracles().BinaryCalibrationError(n_bins=num_bins, norm=norm)
    theirs = oracle(torch.tensor(confidence), torch.tensor(correct).long()).item()
    assert measure(confidence, correct, num_bins=num_bins) == pytest.approx(theirs, abs=1e-6)


def test_vote_share_ece_15_agrees_with_torchmetrics():
    votes = (
        np.random.default_rng(1).integers(1, 9, 400) / 8
    )  # no share of eighths lies on an edge of 15 bins but 1
    correct = (np.random.default_rng(2).random(400) < votes).astype(float)
    theirs = (
        oracles().BinaryCalibrationError(n_bins=15)(torch.tensor(votes), torch.tensor(correct).long()).item()
    )
    assert cal.ece(votes, correct) == pytest.approx(theirs, abs=1e-6)


def test_auroc_agrees_with_torchmetrics():
    confidence, correct = random_scores()
    confidence = np.round(confidence, 1)  # ties
    theirs = (
        oracles().BinaryAUROC(thresholds=None)(torch.tensor(confidence), torch.tensor(correct).long()).item()
    )
    assert cal.auroc(confidence, correct) == pytest.approx(theirs, abs=1e-6)


def test_aurc_by_hand_and_with_ties():
    # Sorted by confidence: right, wrong, right: risks 0, 1/2, 1/3.
    assert cal.aurc(np.array([0.9, 0.5, 0.1]), np.array([1.0, 0.0, 1.0])) == pytest.approx(
        (0 + 1 / 2 + 1 / 3) / 3
    )
    # All tied: the risk is the error rate at every coverage.
    assert cal.aurc(np.full(4, 0.5), np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.75)


def test_aurc_of_ties_is_the_mean_over_their_orders():
    confidence, correct = np.array([0.9, 0.9, 0.9, 0.2]), np.array([1.0, 0.0, 1.0, 0.0])
    generator = np.random.default_rng(0)
    values = []
    for _ in range(4000):
        order = np.lexsort((generator.random(4), -confidence))
        values.append(np.mean(np.cumsum(1 - correct[order]) / np.arange(1, 5)))
    assert cal.aurc(confidence, correct) == pytest.approx(np.mean(values), abs=0.01)


def test_negative_log_likelihood_by_hand():
    value = cal.negative_log_likelihood(np.array([0.8, 1.0]), np.array([1.0, 0.0]), margin=1 / 16)
    assert value == pytest.approx(-(np.log(0.8) + np.log(1 / 16)) / 2)


def test_overconfidence_is_above_0_where_more_is_claimed_than_is_right():
    assert cal.overconfidence(np.array([0.9, 0.7]), np.array([1.0, 0.0])) == pytest.approx(0.3)


def test_adaptive_ece_of_distinct_confidences_uses_equal_counts():
    confidence = np.linspace(0.01, 0.99, 100)
    assert np.bincount(cal.equal_mass_bins(confidence, 10)).tolist() == [10] * 10


def test_reliability_bins_add_up_to_the_ece():
    confidence, correct = random_scores(seed=3)
    bins = [entry for entry in cal.reliability_bins(confidence, correct) if entry.count]
    total = sum(entry.count * abs(entry.accuracy - entry.confidence) for entry in bins)
    assert cal.ece(confidence, correct) == pytest.approx(total / 500)
    assert cal.reliability_bins(confidence, correct, num_bins=3)[0].low == 0


def test_perfect_calibration_ece_shrinks_with_questions():
    def perfect(confidence):
        return cal.perfect_calibration(confidence, cal.equal_width_bins(confidence, 15))

    generator = np.random.default_rng(0)
    few, many = (perfect(generator.uniform(0.3, 1, count)) for count in (100, 1000))
    assert few.mean == pytest.approx(0.09, abs=0.03)
    assert many.mean == pytest.approx(0.03, abs=0.01)
    assert few.low < few.mean < few.high
    assert perfect(np.full(10, 1.0)).mean == 0  # always right, as it says


@given(scored(), st.randoms())
def test_order_of_items_changes_nothing(items, random):
    confidence, correct = items
    order = np.array(random.sample(range(len(confidence)), len(confidence)))
    for measure in (cal.ece, cal.adaptive_ece, cal.mce, cal.brier, cal.auroc, cal.aurc, cal.overconfidence):
        assert measure(confidence, correct) == pytest.approx(
            measure(confidence[order], correct[order]), abs=1e-12, nan_ok=True
        )


@given(scored(st.floats(0, 1)))
def test_ranges_and_bounds(items):
    confidence, correct = items
    assert 0 <= cal.ece(confidence, correct) <= cal.mce(confidence, correct) + 1e-12 <= 1 + 1e-9
    assert abs(cal.overconfidence(confidence, correct)) <= cal.ece(confidence, correct) + 1e-12
    assert 0 <= cal.adaptive_ece(confidence, correct) <= 1
    assert 0 <= cal.aurc(confidence, correct) <= 1


@given(scored())
def test_brier_is_the_sum_of_its_parts(items):
    parts = cal.brier_decomposition(*items)
    total = parts.reliability - parts.resolution + parts.uncertainty
    assert cal.brier(*items) == pytest.approx(total, abs=1e-12)


@given(scored(), st.data())
def test_weights_count_an_item_as_often_as_repeating_it(items, data):
    confidence, correct = items
    counts = data.draw(arrays(np.int64, confidence.size, elements=st.integers(0, 3)))
    if counts.sum() == 0:
        return
    repeated = np.repeat(confidence, counts), np.repeat(correct, counts)
    weights = np.stack([counts, np.ones_like(counts)]).astype(float)
    for measure in (cal.ece, cal.mce, cal.brier, cal.auroc, cal.aurc, cal.overconfidence):
        both = measure(confidence, correct, weights=weights)
        assert both.shape == (2,)
        assert both[0] == pytest.approx(measure(*repeated), abs=1e-9, nan_ok=True)
        assert both[1] == pytest.approx(measure(confidence, correct), abs=1e-9, nan_ok=True)


def test_all_right_has_no_auroc():
    assert np.isnan(cal.auroc(np.array([0.5, 0.7]), np.array([1.0, 1.0])))


def test_adaptive_ece_keeps_equal_confidences_together():
    confidence, correct = np.array([0.5, 0.9, 0.5, 0.5]), np.array([1.0, 0.0, 0.0, 1.0])
    # Two bins: the three of 0.5 (two right), and the one of 0.9 (wrong).
    by_hand = (abs(2 - 3 * 0.5) + abs(0 - 0.9)) / 4
    assert cal.adaptive_ece(confidence, correct, num_bins=2) == pytest.approx(by_hand)
    order = [3, 1, 0, 2]
    assert cal.adaptive_ece(confidence[order], correct[order], num_bins=2) == pytest.approx(by_hand)


def test_negative_log_likelihood_clips_both_ends():
    value = cal.negative_log_likelihood(np.array([0.0, 1.0]), np.array([1.0, 0.0]), margin=1 / 4)
    assert value == pytest.approx(-np.log(1 / 4))


def test_the_risk_coverage_curve_by_hand():
    # Most confident: right. Then two alike, one of them wrong. Last: wrong.
    curve = cal.risk_coverage(np.array([0.9, 0.7, 0.7, 0.2]), np.array([1.0, 1.0, 0.0, 0.0]))
    risks = {round(point.coverage, 2): point.risk for point in curve}
    assert risks[0.25] == 0
    assert risks[0.5] == pytest.approx(0.5 / 2)  # one of the two, at the error rate of both
    assert risks[0.75] == pytest.approx(1 / 3)
    assert risks[1.0] == 0.5
