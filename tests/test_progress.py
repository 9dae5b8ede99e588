"""Time that is left, from the rate until now, and what is told from inside an item."""

import logging
import re

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


def test_what_is_told_inside_an_item_is_shown_and_counted_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)  # a line for each
    monkeypatch.setattr(progress, "SHARE_BETWEEN_LINES", 0.0)
    progress.tell(tokens=5)  # nobody listens
    with progress.track("rollouts", total=2, unit="completions") as tracker:
        progress.tell(doing="reading 2 prompts")
        progress.tell(tokens=16, doing="writing 2 completions")
        assert re.fullmatch(r"\d+ tokens/s", tracker.rate())
        tracker.advance(1, tokens=10)
        tracker.advance(1, tokens=6)
    assert (tracker.num_tokens, tracker.num_open_tokens) == (16, 0)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "rollouts: 0 of 2 completions, 0.0 completions/s, reading 2 prompts"
    assert re.fullmatch(r"rollouts: 0 of 2 completions, \d+ tokens/s, writing 2 completions", lines[1])
    assert re.fullmatch(r"rollouts: 1 of 2 completions, [\d.]+ completions/s, \d+ tokens/s", lines[2])
    assert all(line == line.rstrip() for line in lines)
    progress.tell(tokens=5)  # the block has ended
    assert tracker.num_open_tokens == 0


def test_lines_of_long_work_grow_rare(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tracker = progress.Tracker("train", 10**6, "steps")
    for now[0] in range(0, 36_000, 2):  # ten hours
        tracker.advance()
    assert "20 s" not in caplog.text
    assert 100 < len(caplog.records) < 200
