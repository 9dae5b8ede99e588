"""Finished cells -> every model's answers, and what became of the other cells."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.comparison.cells import FAILED, FINISHED, status
from neuron_opsd.comparison.plan import BASE, BASE_VOTES, Cell, Plan, cell_folder
from neuron_opsd.evaluation.calibration import ece
from neuron_opsd.report.compared import HarnessFigure, TemplateShare
from neuron_opsd.results import MIN_READABLE, Bin, Harness, HarnessScores, QuestionResult, Results, Role
from neuron_opsd.store.files import JsonDict, read_json
from neuron_opsd.store.run_folder import HARNESS_RESULTS, RESULTS, RunFolder

Array = NDArray[np.float64]
Key = tuple[str, str | None, str]  # method, source, target


@dataclass(frozen=True, slots=True)
class Answers:
    """One model on the questions of one domain that have a gold answer, with rows by question id."""

    question_ids: list[str]
    correct_fraction: Array
    majority_correct: Array
    vote_share: Array
    voted_correct: Array  # the chance that a majority of k samples is right. Sampled: whether it was
    pass_fraction: Array  # NaN where an older version wrote the results
    is_read: bool  # False: hardly any answer could be read, so votes say nothing

    def as_votes(self) -> "Answers":
        """The same model, where each answer is a majority of k samples."""
        return dataclasses.replace(self, correct_fraction=self.voted_correct)

    def statistic(self, metric: str, weights: Array, num_bins: int) -> Array:
        """A metric under weights over the questions."""
        if metric == "ece":
            return ece(self.vote_share, self.majority_correct, num_bins=num_bins, weights=weights)
        values = {
            "avg": self.correct_fraction,
            "maj": self.majority_correct,
            "maj_at_k": self.voted_correct,
            "pass_at_k": self.pass_fraction,
        }[metric]
        return weights @ values / weights.sum(axis=-1)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the cells were evaluated. Those of one comparison agree."""

    num_samples: int
    num_bins: int
    num_bootstrap: int
    is_exact: bool
    pass_k: int
    num_complete: int | None


@dataclass(slots=True)
class Gathered:
    """What the finished cells say, and what became of the others."""

    answers: dict[Key, dict[int, Answers]] = field(default_factory=dict)  # by seed
    reliability: dict[Key, list[tuple[Bin, ...]]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    num_cells: dict[str, dict[str, int]] = field(default_factory=dict)
    costs: dict[str, dict[str, int]] = field(default_factory=dict)
    templates: dict[tuple[str, str], list[TemplateShare]] = field(default_factory=dict)  # of each seed
    harness: dict[tuple[str, str | None], list[HarnessScores]] = field(default_factory=dict)  # of each seed
    settings: Settings | None = None  # None before any cell is finished

    def add(self, key: Key, seed: int, answers: Answers, bins: tuple[Bin, ...] | None) -> None:
        """One cell's answers on one test domain."""
        self.answers.setdefault(key, {})[seed] = answers
        self.reliability.setdefault(key, []).extend([bins] if bins else [])

    def harness_figures(self, methods: Sequence[str]) -> list[HarnessFigure]:
        """What lm-evaluation-harness found, by recipe, source, task and metric: means over the seeds."""
        found: list[HarnessFigure] = []
        for method, source in sorted(self.harness, key=lambda key: (methods.index(key[0]), key[1] or "")):
            seeds = [scores.tasks for scores in self.harness[method, source]]
            for task, figures in seeds[0].items():
                own = [seed[task] for seed in seeds if task in seed]
                count = int(figures["num_questions"])
                for metric in (name for name in figures if name != "num_questions"):
                    value = float(np.mean([seed[metric] for seed in own]))
                    found.append(HarnessFigure(method, source, task, metric, value, count, len(own)))
        return found

    def template_shares(self, methods: Sequence[str]) -> list[TemplateShare]:
        """Shares of demonstrations of the question's own template, by recipe and source: means over the seeds."""
        return [
            TemplateShare(
                method,
                source,
                value=float(np.mean([seed.value for seed in seeds])),
                by_chance=float(np.mean([seed.by_chance for seed in seeds])),
            )
            for method in methods
            for (recipe, source), seeds in sorted(self.templates.items())
            if recipe == method
        ]


def gather(plan: Plan, cells: Sequence[Cell], folder: Path) -> Gathered:
    """Read the results of every finished cell. The base model's are in each."""
    found = Gathered()
    for cell in cells:
        path = cell_folder(folder, cell)
        state, error = status(path)
        counts = found.num_cells.setdefault(cell.recipe, {FINISHED: 0, FAILED: 0, "all": 0})
        counts["all"] += 1
        if state == FAILED:
            counts[FAILED] += 1
            found.failures.setdefault(cell.recipe, []).append(error)
        results = RunFolder(path).load_result(RESULTS, Results) if state == FINISHED else None
        if results is None:
            continue
        counts[FINISHED] += 1
        found.settings = found.settings or Settings(
            results.num_samples,
            results.num_bins,
            results.num_bootstrap,
            results.is_exact,
            results.pass_k,
            results.num_complete,
        )
        _add_answers(found, cell, results)
        if cell.source is not None and (share := _template_share(path, cell.recipe, cell.source)) is not None:
            found.templates.setdefault((cell.recipe, cell.source), []).append(share)
        if harness := RunFolder(path).load_result(HARNESS_RESULTS, Harness):
            _add_harness(found, cell, harness)
        _add_costs(found.costs.setdefault(cell.recipe, {}), path)
    return found


def _add_answers(found: Gathered, cell: Cell, results: Results) -> None:
    """The trained model's answers in each test domain, and the base model's where no cell had them before."""
    models: dict[Role, tuple[str, str | None]] = {"base": (BASE, None)}
    if cell.recipe != BASE:
        models["trained"] = (cell.recipe, cell.source)
    for target, block in {results.train_domain: results.in_domain, **results.cross.domains}.items():
        bins = block.reliability if block else None
        for role, (method, source) in models.items():
            answers = _read_answers(results.questions, target, role)
            if not answers.question_ids or cell.seed in found.answers.get((method, source, target), {}):
                continue
            found.add((method, source, target), cell.seed, answers, bins.of(role) if bins else None)
            if method == BASE:
                found.add((BASE_VOTES, None, target), cell.seed, answers.as_votes(), None)


def _read_answers(questions: Iterable[QuestionResult], target: str, role: Role) -> Answers:
    own = [(one.question_id, one.both.of(role)) for one in questions if one.domain == target]
    own = sorted((pair for pair in own if pair[1].correct_fraction is not None), key=lambda pair: pair[0])
    voted = [o.majority_correct if o.voted_correct is None else o.voted_correct for _, o in own]
    return Answers(
        [question_id for question_id, _ in own],
        correct_fraction=np.array([outcome.correct_fraction for _, outcome in own], dtype=np.float64),
        majority_correct=np.array([outcome.majority_correct for _, outcome in own], dtype=np.float64),
        vote_share=np.array([outcome.vote_share for _, outcome in own], dtype=np.float64),
        voted_correct=np.array(voted, dtype=np.float64),
        pass_fraction=np.array([outcome.pass_fraction for _, outcome in own], dtype=np.float64),
        is_read=sum(outcome.answer is not None for _, outcome in own) >= MIN_READABLE * len(own),
    )


def _template_share(path: Path, method: str, source: str) -> TemplateShare | None:
    """The figures of a cell's contexts, before its training or before test questions. None where it has none."""
    for stage in ("contexts", "evaluation/contexts"):
        summary = _summary(path, stage)
        value, by_chance = (summary.get(f"same_template_{name}") for name in ("fraction", "by_chance"))
        if value is not None and by_chance is not None:
            return TemplateShare(method, source, value, by_chance)
    return None


def _add_harness(found: Gathered, cell: Cell, harness: Harness) -> None:
    """A cell's own scores, and the base model's once."""
    found.harness.setdefault((BASE, None), [harness.base])
    if harness.trained:
        found.harness.setdefault((cell.recipe, cell.source), []).append(harness.trained)


def _add_costs(costs: dict[str, int], path: Path) -> None:
    """Tokens of every stage that the recipe needs, also where another recipe had made it: the cost as if alone."""
    for stage in ("rollouts", "demonstrations", "training"):
        summary = _summary(path, stage)
        costs["tokens_generated"] = costs.get("tokens_generated", 0) + summary.get("num_completion_tokens", 0)
        if stage == "training":
            costs["tokens_trained"] = costs.get("tokens_trained", 0) + summary.get("num_loss_tokens", 0)
            costs["steps"] = costs.get("steps", 0) + summary.get("num_steps", 0)


def _summary(path: Path, stage: str) -> JsonDict:
    """A stage's figures. None, where the recipe does not make it."""
    return (read_json(path / stage / "manifest.json") or {}).get("summary", {})
