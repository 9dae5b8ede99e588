"""Time that is left, from the rate until now."""

import pytest

from neuron_opsd import progress


@pytest.mark.parametrize(("total", "left"), [(42, "20 s"), (602, "5 min")])
def test_time_left_is_at_the_rate_until_now(monkeypatch, total, left):
    clock = iter([0.0, 100.0, 101.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    tracker = progress.Tracker("train", total, "steps")
    tracker.restart_clock()  # what came before is not work that comes again
    tracker.done = 2
    assert tracker.describe_left() == left


@pytest.mark.parametrize(
    ("seconds", "rate"),
    [
        (10.0, "2.0 steps/s, 40 tokens/s"),
        (260.0, "4.6 steps/min, 2 tokens/s"),
        (1000.0, "1.2 steps/min, 24.0 tokens/min"),
    ],
)
def test_a_slow_rate_is_told_by_the_minute(monkeypatch, seconds, rate):
    clock = iter([0.0, seconds])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    tracker = progress.Tracker("train", 30, "steps")
    tracker.done, tracker.num_tokens = 20, 400
    assert tracker.rate() == rate


def test_nothing_done_is_no_rate_by_the_minute():
    assert progress.Tracker("train", 30, "steps").rate() == "0.0 steps/s"
