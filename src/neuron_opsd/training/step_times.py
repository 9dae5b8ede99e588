"""Where the time of a training step goes: generation, teacher, student, optimiser. For the log and timings.jsonl."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

# Each part, and what its share is called in timings.jsonl.
PARTS: dict[str, str] = {
    "generation": "generation_fraction",
    "teacher": "teacher_fraction",
    "student": "student_fraction",
    "optimiser": "optimiser_fraction",
}


class StepTimes(TrainerCallback):
    """Seconds of each part, since the last row of figures and in all. What else a step does is in none of them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.interval = dict.fromkeys(PARTS, 0.0)
        self.total = dict.fromkeys(PARTS, 0.0)
        self.started = 0.0  # the optimiser

    @contextmanager
    def measure(self, part: str, *, of: str | None = None) -> Iterator[None]:
        """Count the time of what is done here for a part. It is taken off `of`, the part around it."""
        started = self._now()
        yield
        seconds = self._now() - started
        for seconds_of in (self.interval, self.total):
            seconds_of[part] += seconds
            if of:
                seconds_of[of] -= seconds

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Gradients are clipped."""
        self.started = self._now()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Weights are changed."""
        seconds = self._now() - self.started
        self.interval["optimiser"] += seconds
        self.total["optimiser"] += seconds

    def end_interval(self) -> str:
        """The seconds and shares since the last call, in words."""
        seconds, self.interval = self.interval, dict.fromkeys(PARTS, 0.0)
        told = ", ".join(f"{part} {share:.0%}" for part, share in shares_of(seconds).items())
        return f"{sum(seconds.values()):.1f} s ({told})"

    def _now(self) -> float:
        """Once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def shares_of(seconds: Mapping[str, float]) -> dict[str, float]:
    """The share of each part, rounded."""
    total = sum(seconds.values())
    return {part: round(value / total, 3) if total else 0.0 for part, value in seconds.items()}
