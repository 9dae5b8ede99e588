"""Progress of long work, with rates: a bar on a terminal, a log line now and then elsewhere.

What is deep inside the work (an engine, in the middle of a batch) calls `tell`, and whatever is tracked shows it.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15.0
SHARE_BETWEEN_LINES = 0.05  # of the time until now: a night's work needs no thousand lines

Listener = Callable[[int, str], None]  # (tokens of unfinished items, what is being done)
_listeners: list[Listener] = []


def tell(*, tokens: int = 0, doing: str = "") -> None:
    """Say what happens inside an item: so many tokens were written, or what is being done now."""
    if _listeners:
        _listeners[-1](tokens, doing)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hand what is told to a listener while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Tracker:
    """Counts items, and tokens where there are any, and tells the rate."""

    def __init__(self, description: str, total: int, unit: str, done: int = 0) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done, self.resumed_from, self.num_tokens = done, done, 0
        self.num_open_tokens = 0  # of items that are not finished
        self.note = self.doing = ""  # of the last finished item, and inside the next one
        self.started = self.last_line = time.monotonic()
        self.bar: tuple[Progress, int] | None = None

    def advance(self, items: int = 1, *, tokens: int = 0, note: str = "") -> None:
        """Record finished items (and tokens), and show it."""
        self.done += items
        self.num_tokens += tokens
        self.num_open_tokens = max(self.num_open_tokens - tokens, 0)
        self.note, self.doing = note, ""
        self._show()

    def hear(self, tokens: int, doing: str) -> None:
        """Show what is told from inside an item (`tell`)."""
        self.num_open_tokens += tokens
        self.doing = doing or self.doing
        self._show()

    def _show(self) -> None:
        """Move the bar, or log a line if the last one is long ago."""
        note = ", ".join(filter(None, (self.note, self.doing)))
        if self.bar:
            progress, task = self.bar
            progress.update(task, completed=self.done, rate=self.rate(), note=note)  # pyright: ignore[reportArgumentType]
            return
        now = time.monotonic()
        if now - self.last_line > max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * (now - self.started)):
            self.last_line = now
            parts = (f"{self.done} of {self.total} {self.unit}", self.rate(), note)
            logger.info("%s: %s", self.description, ", ".join(filter(None, parts)))

    def restart_clock(self) -> None:
        """Count time from here: what came before (loading, reading a checkpoint) is not work that comes again."""
        self.started = time.monotonic()

    def seconds_left(self) -> float:
        """How long the rest takes at the rate until now."""
        per_item = (time.monotonic() - self.started) / max(self.done - self.resumed_from, 1)
        return per_item * (self.total - self.done)

    def describe_left(self) -> str:
        """The same in words."""
        seconds = self.seconds_left()
        return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"

    def rate(self) -> str:
        """Items and tokens per second since the start, resumed ones left out. Slow ones by the minute, never 0.0."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        done, tokens = self.done - self.resumed_from, self.num_tokens + self.num_open_tokens
        parts = [(done, self.unit, 1)] if done or not tokens else []
        parts += [(tokens, "tokens", 0)] if tokens else []
        return ", ".join(
            f"{count / seconds:.{digits}f} {unit}/s"
            if not count or count / seconds >= 0.95
            else f"{60 * count / seconds:.1f} {unit}/min"
            for count, unit, digits in parts
        )


@contextmanager
def track(description: str, *, total: int, unit: str, done: int = 0) -> Iterator[Tracker]:
    """Show progress of `total` items while the block runs. `done` of them were finished before."""
    tracker = Tracker(description, total, unit, done)
    with listening(tracker.hear):
        if not sys.stderr.isatty() or not logger.isEnabledFor(logging.INFO):
            yield tracker
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task(description, total=total, completed=done, rate="", note="")
                tracker.bar = (progress, int(task))
                yield tracker
    tokens = f", {tracker.num_tokens} tokens" if tracker.num_tokens else ""
    seconds = time.monotonic() - tracker.started
    logger.info(
        "%s: %d %s%s in %.1f s (%s)", description, tracker.done, unit, tokens, seconds, tracker.rate()
    )
