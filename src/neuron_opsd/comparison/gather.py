"""Finished cells -> every model's answers, and what became of the other cells."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.comparison.cells import FAILED, FINISHED, status
from neuron_opsd.comparison.plan import BASE, Cell, Plan, cell_folder
from neuron_opsd.evaluation.calibration import ece
from neuron_opsd.store.files import JsonDict, read_json
from neuron_opsd.store.run_folder import HARNESS_RESULTS, RESULTS, RunFolder

Array = NDArray[np.float64]
Key = tuple[str, str | None, str]  # method, source, target


@dataclass(frozen=True, slots=True)
class Answers:
    """One model on the questions of one domain that have a gold answer; rows by question id."""

    question_ids: list[str]
    correct_fraction: Array
    majority_correct: Array
    vote_share: Array

    def statistic(self, metric: str, weights: Array, num_bins: int) -> Array:
        """A metric under weights over the questions."""
        if metric == "ece":
            return ece(self.vote_share, self.majority_correct, num_bins=num_bins, weights=weights)
        values = self.correct_fraction if metric == "avg" else self.majority_correct
        return weights @ values / weights.sum(axis=-1)


@dataclass(slots=True)
class Gathered:
    """What the finished cells say, and what became of the others."""

    answers: dict[Key, dict[int, Answers]] = field(default_factory=dict)  # by seed
    reliability: dict[Key, list[Any]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    num_cells: dict[str, dict[str, int]] = field(default_factory=dict)
    costs: dict[str, dict[str, int]] = field(default_factory=dict)
    templates: dict[tuple[str, str], list[JsonDict]] = field(default_factory=dict)  # by recipe and source
    harness: dict[tuple[str, str | None], list[JsonDict]] = field(default_factory=dict)  # tasks of each seed
    settings: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def add(self, key: Key, seed: int, answers: Answers, bins: Any) -> None:
        """One cell's answers on one test domain."""
        self.answers.setdefault(key, {})[seed] = answers
        self.reliability.setdefault(key, []).append(bins)

    def harness_rows(self, methods: Sequence[str]) -> list[dict[str, Any]]:
        """What lm-evaluation-harness found, by recipe, source, task and metric: means over the seeds."""
        rows = []
        for method, source in sorted(self.harness, key=lambda key: (methods.index(key[0]), key[1] or "")):
            seeds = self.harness[method, source]
            for task, figures in seeds[0].items():
                own = [seed[task] for seed in seeds if task in seed]
                for metric in (name for name in figures if name != "num_questions"):
                    value = float(np.mean([seed[metric] for seed in own]))
                    row = {"method": method, "source": source, "task": task, "metric": metric, "value": value}
                    rows.append(row | {"num_questions": figures["num_questions"], "num_seeds": len(own)})
        return rows

    def template_rows(self, methods: Sequence[str]) -> list[dict[str, Any]]:
        """Shares of demonstrations of the question's own template, by recipe and source: means over the seeds."""
        return [
            {"method": method, "source": source}
            | {name: float(np.mean([seed[name] for seed in seeds])) for name in ("value", "by_chance")}
            for method in methods
            for (recipe, source), seeds in sorted(self.templates.items())
            if recipe == method
        ]


def gather(plan: Plan, cells: Sequence[Cell], folder: Path) -> Gathered:
    """Read the results of every finished cell; the base model's are in each."""
    found = Gathered()
    for cell in cells:
        path = cell_folder(folder, cell)
        state, error = status(path)
        counts = found.num_cells.setdefault(cell.recipe, {FINISHED: 0, FAILED: 0, "all": 0})
        counts["all"] += 1
        if state == FAILED:
            counts[FAILED] += 1
            found.failures.setdefault(cell.recipe, []).append(error)
        results = RunFolder(path).read_result(RESULTS) if state == FINISHED else None
        if results is None:
            continue
        counts[FINISHED] += 1
        found.settings = found.settings or {
            name: results[name] for name in ("num_samples", "num_bins", "num_bootstrap")
        }
        blocks = {results["train_domain"]: results["in"], **results["cross"]["domains"]}
        for target, block in blocks.items():
            roles = {"base": (BASE, None)} | (
                {} if cell.recipe == BASE else {"trained": (cell.recipe, cell.source)}
            )
            for role, (method, source) in roles.items():
                answers = _read_answers(results["questions"], target, role)
                bins = ((block or {}).get("reliability") or {}).get(role)
                if answers.question_ids and cell.seed not in found.answers.get((method, source, target), {}):
                    found.add((method, source, target), cell.seed, answers, bins)
        if cell.source is not None and (shares := _template_shares(path)) is not None:
            found.templates.setdefault((cell.recipe, cell.source), []).append(shares)
        _add_harness(found, cell, RunFolder(path).read_result(HARNESS_RESULTS) or {})
        _add_costs(found.costs.setdefault(cell.recipe, {}), path)
    return found


def _read_answers(rows: Iterable[Mapping[str, Any]], target: str, role: str) -> Answers:
    own = [row for row in rows if row["domain"] == target and row[f"{role}_correct_fraction"] is not None]
    own.sort(key=lambda row: row["question_id"])

    def column(name: str) -> Array:
        return np.array([row[f"{role}_{name}"] for row in own], dtype=np.float64)

    ids = [row["question_id"] for row in own]
    return Answers(ids, column("correct_fraction"), column("majority_correct"), column("vote_share"))


def _template_shares(path: Path) -> JsonDict | None:
    """The figures of a cell's contexts, before its training or before test questions; None where it has none."""
    for stage in ("contexts", "evaluation/contexts"):
        summary = _summary(path, stage)
        value, by_chance = (summary.get(f"same_template_{name}") for name in ("fraction", "by_chance"))
        if value is not None and by_chance is not None:
            return {"value": value, "by_chance": by_chance}
    return None


def _add_harness(found: Gathered, cell: Cell, results: Mapping[str, Any]) -> None:
    """A cell's own figures; the base model's once."""
    if "base" in results and (BASE, None) not in found.harness:
        found.harness[BASE, None] = [results["base"]["tasks"]]
    if "trained" in results:
        found.harness.setdefault((cell.recipe, cell.source), []).append(results["trained"]["tasks"])


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
