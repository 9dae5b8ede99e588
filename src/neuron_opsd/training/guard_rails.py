"""Guard rails: stop a run that goes wrong, from figures that need no label.

Each rail compares the mean of a figure over the last `window_steps` rows of metrics.jsonl with its mean over the first
`baseline_steps`. Published runs of on-policy self-distillation collapsed this way: answers that shrink or never end,
entropy that vanishes, answers that can no longer be read. The thresholds are heuristics of ours, wide enough that a run
that goes well does not meet them. They are settings (`training.guard_rails.*`).

`find_stop` is a pure function of the rows, so a resumed run decides as an uninterrupted one.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neuron_opsd.config import GuardRailSettings

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rail:
    """One figure, the setting that bounds it, and how."""

    figure: str
    words: str
    setting: str
    kind: Literal["ratio", "ratio_up", "rise", "fall"]
    floor: float = 0.0  # a smaller change than this is never a reason to stop, whatever the ratio


RAILS = (
    Rail("completion_tokens_mean", "completion length (tokens)", "max_length_ratio", "ratio", floor=2.0),
    Rail(
        "truncated_fraction",
        "share of completions that do not end by themselves",
        "max_end_rate_drop",
        "rise",
    ),
    Rail("student_entropy", "token entropy (nats)", "max_entropy_ratio", "ratio", floor=0.1),
    Rail("parse_rate", "share of completions with a readable answer", "max_parse_rate_drop", "fall"),
    Rail("vote_share", "vote share of the majority answer", "max_vote_share_drop", "fall"),
    Rail("divergence", "teacher-student divergence (nats)", "max_divergence_ratio", "ratio_up", floor=0.05),
    Rail("grad_norm", "gradient norm", "max_grad_norm_ratio", "ratio_up", floor=1.0),
)


@dataclass(frozen=True, slots=True)
class Stop:
    """Why training stops, and up to which step it was well."""

    step: int
    reason: str
    last_healthy_step: int


def find_stop(rows: Sequence[Row], settings: GuardRailSettings) -> Stop | None:
    """The first reason to stop after the last of `rows`, or None.

    Args:
        rows: Rows of metrics.jsonl so far, each with its `step`.
        settings: `training.guard_rails.*`.
    """
    if not settings.enabled or not rows:
        return None
    reason = _not_finite(rows[-1])
    if reason:
        return Stop(rows[-1]["step"], reason, _step_before(rows, 1))
    if len(rows) < settings.baseline_steps + settings.window_steps:
        return None
    for rail in RAILS:
        limit = getattr(settings, rail.setting)
        before = _mean(rows[: settings.baseline_steps], rail.figure)
        now = _mean(rows[-settings.window_steps :], rail.figure)
        if (
            limit is not None
            and before is not None
            and now is not None
            and is_beyond(rail, before, now, limit)
        ):
            reason = (
                f"{rail.words}: {before:.3g} over the first {settings.baseline_steps} rows, {now:.3g} over the last "
                f"{settings.window_steps}; training.guard_rails.{rail.setting} is {limit:g}"
            )
            return Stop(rows[-1]["step"], reason, _step_before(rows, settings.window_steps))
    return None


def limits(rows: Sequence[Row], settings: GuardRailSettings) -> dict[str, list[float | None]]:
    """[low, high] that each figure's window mean may not leave, once the first rows are there: for the report."""
    if not settings.enabled or len(rows) < settings.baseline_steps:
        return {}
    found: dict[str, list[float | None]] = {}
    for rail in RAILS:
        limit, before = getattr(settings, rail.setting), _mean(rows[: settings.baseline_steps], rail.figure)
        if limit is not None and before is not None:
            found[rail.figure] = list(bounds(rail, before, limit))
    return found


def bounds(rail: Rail, before: float, limit: float) -> tuple[float | None, float | None]:
    """Lowest and highest value that a figure may have. None where that side is free."""
    if rail.kind == "rise":
        return None, before + limit
    if rail.kind == "fall":
        return before - limit, None
    high = max(limit * before, before + rail.floor)
    return (min(before / limit, before - rail.floor) if rail.kind == "ratio" else None), high


def is_beyond(rail: Rail, before: float, now: float, limit: float) -> bool:
    """Whether a figure moved further than its limit allows."""
    low, high = bounds(rail, before, limit)
    return (low is not None and now < low) or (high is not None and now > high)


def _not_finite(row: Row) -> str | None:
    for name in sorted(row):
        if isinstance(row[name], float) and not math.isfinite(row[name]):
            return f"{name} is {row[name]}, which is not a finite number"
    return None


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None


def _step_before(rows: Sequence[Row], count: int) -> int:
    """The step of the last row before the last `count`, 0 where there is none."""
    return rows[-count - 1]["step"] if len(rows) > count else 0


class GuardRails(TrainerCallback):
    """Ends training at the first reason that `find_stop` finds. `rows` is the list that the trainer appends to."""

    def __init__(self, rows: Sequence[Row], settings: GuardRailSettings) -> None:
        self.rows, self.settings = rows, settings
        self.stop = find_stop(rows, settings)  # of a run that was killed after it had stopped

    def broken_weights(self, reason: str) -> Stop:
        """The stop of a step that could not be computed: the last update may have done it, so go before that."""
        step = self.rows[-1]["step"] + 1 if self.rows else 1
        return Stop(step, reason, _step_before(self.rows, 1))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Nothing more is to be done where the rows so far are a reason to stop."""
        control.should_training_stop = self.stop is not None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After each row."""
        if self.stop is None:
            self.stop = find_stop(self.rows, self.settings)
            if self.stop:
                logger.warning("training: stopped at step %d because of %s", self.stop.step, self.stop.reason)
                control.should_training_stop = True
