"""Sections on training and on what everything cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuron_opsd.report import figures, story, tables
from neuron_opsd.report.blocks import Block, Figures, Table
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.parts import missing, present

# Training numbers that get a curve, in this order, others follow. Times differ between equal runs: no curve.
CURVES = {
    "loss": "Loss",
    "divergence": "Divergence (nats per token)",
    "student_entropy": "Student's entropy (nats per token)",
    "teacher_entropy": "Teacher's entropy (nats per token)",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "completion_tokens_mean": "Completion length (tokens)",
    "truncated_fraction": "Truncated share",
    "parse_rate": "Share with a readable answer",
    "vote_share": "Vote share of the majority answer",
    "agreeing_fraction": "Share that agrees with the pseudo-label",
    "captured_mass_fraction": "Probability mass compared",
    "importance_ratio": "Importance ratio",
}
ONLY_WHERE_IT_MOVES = (
    "captured_mass_fraction",
    "importance_ratio",
)  # 1 throughout under the default settings
_NO_CURVE = ("step", "epoch", "seed", "num_completion_tokens", "num_loss_tokens")
_TIME_WORDS = ("second", "time", "per_sec", "memory", "date")


def training_section(inputs: ReportInputs) -> list[Block]:
    """Curves with their guard rails. The step at which one stopped training is marked."""
    rows = inputs.training_metrics
    if not rows:
        return [missing("No training yet.", "train")]
    keys = dict.fromkeys([*CURVES, *(key for row in rows for key in row)])
    summary = inputs.training_summary or {}
    marks = {"stopped": summary.get("stop_step"), "kept": summary.get("best_step")}
    marks = {words: float(step) for words, step in marks.items() if step is not None}
    drawn = []
    for key in keys:
        steps, values = _series(rows, key)
        is_flat = key in ONLY_WHERE_IT_MOVES and len(set(values)) == 1
        if values and not is_flat and not _is_hidden(key):
            label = CURVES.get(key, key.replace("_", " "))
            limits = (summary.get("limits") or {}).get(key) or (None, None)
            drawn.append(figures.training_curve(key, label, steps, values, limits=limits, marks=marks))
    return [*present(story.how_training_ended(inputs)), story.training_in_words(inputs), Figures(drawn)]


def _is_hidden(key: str) -> bool:
    return key in _NO_CURVE or any(word in key for word in _TIME_WORDS)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [
        (float(row.get("step", index)), float(row[key]))
        for index, row in enumerate(rows)
        if isinstance(row.get(key), int | float) and not isinstance(row[key], bool) and np.isfinite(row[key])
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]


def cost_section(inputs: ReportInputs) -> list[Block]:
    rows = [row for row in (_rollout_cost(inputs), _training_cost(inputs), *_evaluation_cost(inputs)) if row]
    if not rows:
        return []
    note = "Wall times are at the foot of the page: they differ between equal runs."
    return [Table("Tokens generated", ["Stage", "Completions", "Tokens generated"], rows, note)]


def _rollout_cost(inputs: ReportInputs) -> list[str] | None:
    if not inputs.rollouts:
        return None
    tokens = sum(len(rollout.completion_ids) for rollout in inputs.rollouts)
    return ["Zero-shot rollouts", f"{len(inputs.rollouts):,}", f"{tokens:,}"]


def _training_cost(inputs: ReportInputs) -> list[str] | None:
    batch = inputs.setting("training.batch_size", 0) * inputs.setting("training.num_rollouts", 1)
    _, tokens = _series(inputs.training_metrics, "num_completion_tokens")
    if not tokens or not batch:
        return None
    return ["The student's samples in training", f"{len(tokens) * batch:,}", f"{round(sum(tokens)):,}"]


def _evaluation_cost(inputs: ReportInputs) -> list[list[str]]:
    results = inputs.results
    if not results:
        return []
    own = [*([results.in_domain] if results.in_domain else []), *results.cross.domains.values()]
    sampled = [(results.num_samples, block) for block in own]
    if results.general:
        sampled += [(results.general.num_samples, block) for block in results.general.domains.values()]
    rows: list[list[str]] = []
    for role, word in tables.WORDS.items():
        counts = [
            block.num_drawn.of(role) if block.num_drawn else block.num_questions * most
            for most, block in sampled
        ]
        lengths = [block.metrics["completion_tokens"].both.of(role).value or 0.0 for _, block in sampled]
        tokens = sum(number * length for number, length in zip(counts, lengths, strict=True))
        rows.append([f"Evaluation {word} training", f"{sum(counts):,}", f"{round(tokens):,}"])
    return rows
