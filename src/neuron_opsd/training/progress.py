"""Training's bar: steps, tokens, divergence, and the time that is left. And its curve in an experiment tracker."""

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from neuron_opsd.progress import Tracker, tell
from neuron_opsd.run.tracking import Tracking

logger = logging.getLogger(__name__)


class ProgressCallback(TrainerCallback):
    """Shows steps as they end, with the divergence, and how long the rest takes, where that is known."""

    def __init__(self, tracker: Tracker, *, tells_rest: bool = True) -> None:
        self.tracker, self.has_told = tracker, not tells_rest

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.tracker.done = self.tracker.resumed_from = state.global_step
        self.tracker.restart_clock()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.batches_learned = 0
        self._show_batch(args.gradient_accumulation_steps)

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.batches_learned += 1
        self._show_batch(args.gradient_accumulation_steps)

    def _show_batch(self, num_batches: int) -> None:
        tell(doing=f"learning from batch {self.batches_learned + 1} of {num_batches}")

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:  # not the Trainer's closing summary
            note = f"loss {logs['loss']:.4f}"
            if "divergence" in logs:
                note = f"divergence {logs['divergence']:.4f}, {logs['completion_tokens_mean']:.0f} tokens a completion"
            steps = state.global_step - self.tracker.done
            self.tracker.advance(steps, tokens=int(logs.get("num_completion_tokens", 0)), note=note)
            left = state.max_steps - state.global_step
            if self.tracker.done - self.tracker.resumed_from >= 2 and left and not self.has_told:
                self.has_told = True
                logger.info(
                    "training: about %s for the remaining %d steps", self.tracker.describe_left(), left
                )


class TrackingCallback(TrainerCallback):
    """Sends each step's figures to an experiment tracker as the step ends."""

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.tracking.catch_up()
