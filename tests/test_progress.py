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
