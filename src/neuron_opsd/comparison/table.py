"""Answers of finished cells -> the figures of a comparison, each with its interval and its honest marks.

Everything is paired over questions: one set of bootstrap resamples for each test domain serves every recipe, source and
seed, so a difference is taken on the same questions. A figure of several seeds is the mean of each seed's. The interval
is over questions, and does not cover what another seed would change (the spread over seeds stands beside it).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from neuron_opsd.comparison.cells import FAILED, FINISHED
from neuron_opsd.comparison.figure import BEYOND, Figure, Metric, Row, beyond_row, mean_of, spread_of
from neuron_opsd.comparison.gather import Array, Gathered, Key, Settings
from neuron_opsd.comparison.plan import BASE, BASE_VOTES, Plan, label_of
from neuron_opsd.config import USES_GOLD
from neuron_opsd.errors import DataError
from neuron_opsd.report.compared import ComparedCell, ComparedMetric, Comparison, Method, MethodMean, Place
from neuron_opsd.report.comparison import pooled
from neuron_opsd.results import majority_label, of_samples
from neuron_opsd.statistics import LEVEL, MIN_QUESTIONS, bootstrap_draws, bootstrap_p_value, holm

PLACES: tuple[Place, ...] = ("in", "cross")
SIGNIFICANT = 1 - LEVEL


def _metrics(found: Gathered, settings: Settings) -> tuple[Metric, ...]:
    """The figures that the answers have. pass@k was not written by older versions."""
    of = of_samples(settings.num_complete or settings.num_samples, is_exact=settings.is_exact)
    k = settings.pass_k
    everyone = [answers for group in found.answers.values() for answers in group.values()]
    has_pass = all(np.isfinite(answers.pass_fraction).all() for answers in everyone)
    expected = [Metric("maj_at_k", f"Maj@{k} (expected)", True)] if settings.is_exact else []
    voted = k if settings.is_exact else settings.num_samples
    return (
        Metric("avg", f"Avg{of}", True),
        Metric("maj", majority_label(settings.num_samples, is_exact=settings.is_exact), True),
        *expected,
        *([Metric("pass_at_k", f"pass@{k}", True)] if has_pass else []),
        Metric(BEYOND, f"Avg minus base Maj@{voted}", True),
        Metric("ece", f"ECE-{settings.num_bins}", False),
    )


class Table:
    """The figures of every recipe, source and target, and their means in-domain and cross-domain."""

    def __init__(self, plan: Plan, found: Gathered) -> None:
        self.plan, self.found = plan, found
        if found.settings is None:
            raise ValueError("A table needs a finished cell.")
        self.num_bins, self.num_bootstrap = found.settings.num_bins, found.settings.num_bootstrap
        self.pass_k = found.settings.pass_k
        self.metrics = _metrics(found, found.settings)
        self.bounds = frozenset(recipe for recipe in plan.recipes if plan.uses_gold(recipe))
        # Read once: each row of each table asks.
        self.averages_orders = frozenset(
            name for name in plan.recipes if plan.config(name, seed=plan.seeds[0]).evaluation.order_average
        )
        self.no_candidates = self.bounds | {BASE_VOTES}
        self.methods = [BASE, BASE_VOTES, *(recipe for recipe in plan.recipes if recipe != BASE)]
        self._weights = {target: self._resamples(target) for target in self.targets}
        self.figures = {
            (*key, metric.name): self._figure(key, metric.name)
            for key in found.answers
            for metric in self.metrics
            if self._is_shown(key, metric.name)
        }

    def _is_shown(self, key: Key, metric: str) -> bool:
        """Whether a figure means anything: a calibration error of votes that were not read does not.

        Nor does that of a majority as the only answer. It has no votes, and no further tries, of its own.
        """
        if key[0] == BASE_VOTES and metric in ("ece", "pass_at_k"):
            return False
        return metric != "ece" or self._is_read(key)

    def _is_read(self, key: Key) -> bool:
        return all(answers.is_read for answers in self.found.answers[key].values())

    @property
    def targets(self) -> list[str]:
        """Test domains that anyone answered."""
        return list(dict.fromkeys(target for _, _, target in self.found.answers))

    def _resamples(self, target: str) -> Array:
        """How often each question of a domain is drawn, the same for everyone."""
        groups = [group for key, group in self.found.answers.items() if key[2] == target]
        ids = {tuple(answers.question_ids) for group in groups for answers in group.values()}
        if len(ids) > 1:
            raise DataError(
                f"Cells of this comparison were tested on different questions of {target}. Give the questions as they "
                "were, or another folder."
            )
        kept: list[Array] = []

        def keep(weights: Array) -> dict[str, Array]:
            kept.append(weights)
            return {"": weights.sum(axis=-1)}

        seed = [0, *target.encode()]
        bootstrap_draws(keep, num_items=len(ids.pop()), num_resamples=self.num_bootstrap, seed=seed)
        return np.concatenate(kept)

    def _figure(self, key: Key, metric: str, seeds: frozenset[int] | None = None) -> Figure:
        """The mean over these seeds, or over all there are."""
        weights = self._weights[key[2]]
        ones = np.ones(weights.shape[1])
        if metric == BEYOND:
            base = (BASE, None, key[2])
            common = frozenset(self.found.answers[key]) & frozenset(self.found.answers[base])
            return self._figure(key, "avg", common).minus(self._figure(base, "maj_at_k", common))
        groups = [group for seed, group in self.found.answers[key].items() if seeds is None or seed in seeds]
        values = [float(group.statistic(metric, ones, self.num_bins)) for group in groups]
        draws = np.mean([group.statistic(metric, weights, self.num_bins) for group in groups], axis=0)
        return Figure(float(np.mean(values)), draws, len(ones), tuple(values))

    def places_of(self, method: str, place: str) -> list[tuple[str | None, str]]:
        """The (source, target) pairs over which a method's figure is a mean. A base has no source."""
        pairs = [(source, target) for name, source, target in self.found.answers if name == method]
        if place == "in":
            return [(s, t) for s, t in pairs if s is None or s == t]
        return [(s, t) for s, t in pairs if (s is None or s != t) and len(self.targets) > 1]

    def mean(self, method: str, place: str, metric: str) -> Figure | None:
        """Over domains, each pair counted once. None where nothing is finished, or one of them is not shown."""
        own = [self.figures.get((method, s, t, metric)) for s, t in self.places_of(method, place)]
        return None if None in own else mean_of([figure for figure in own if figure])

    def difference(self, method: str, other: str, place: str, metric: str) -> Figure | None:
        """Method minus other on the same test domains, seeds and questions, trained on the same source."""
        changes = []
        for source, target in self.places_of(method, place):
            own, theirs = (method, source, target), (other, None, target)
            if theirs not in self.found.answers:
                theirs = (other, source, target)
            common = frozenset(self.found.answers[own]) & frozenset(self.found.answers.get(theirs, {}))
            if not (self._is_shown(own, metric) and (not common or self._is_shown(theirs, metric))):
                return None
            if common:
                changes.append(self._figure(own, metric, common).minus(self._figure(theirs, metric, common)))
        return mean_of(changes)

    def rows(self) -> list[Row]:
        """A row for each method, place and metric, with its difference from base, and its marks."""
        rows = [row for place in PLACES for metric in self.metrics for row in self._rows_of(place, metric)]
        order = {method: i for i, method in enumerate(self.methods)}
        return sorted(rows, key=lambda row: (order[row.method], row.place != "in"))

    def _rows_of(self, place: Place, metric: Metric) -> list[Row]:
        means = {method: self.mean(method, place, metric.name) for method in self.methods}
        if metric.name == BEYOND:
            return [beyond_row(method, place, mean) for method, mean in means.items() if mean is not None]
        changes = {
            method: self.difference(method, BASE, place, metric.name)
            for method in self.methods
            if method != BASE
        }
        told = {method: change for method, change in changes.items() if change is not None}
        enough = [
            method
            for method, change in told.items()
            if change.num_questions >= MIN_QUESTIONS and method not in self.no_candidates
        ]
        p_values = [bootstrap_p_value(told[method].draws, told[method].value) for method in enough]
        adjusted = dict(zip(enough, zip(p_values, holm(p_values), strict=True), strict=True))
        best = self._best(means, metric)
        rows: list[Row] = []
        for method, mean in means.items():
            if mean is None:
                continue
            p, p_holm = adjusted.get(method, (None, None))
            marks = [*self._best_marks(method, best, place, metric)]
            if p_holm is not None and p_holm < SIGNIFICANT:
                is_higher = told[method].value > 0
                marks.append("better than base" if is_higher == metric.is_better_high else "worse than base")
            rows.append(
                Row(
                    method=method,
                    place=place,
                    metric=metric.name,
                    found=mean.estimate(),
                    seeds_sd=spread_of(mean),
                    difference=told[method].estimate() if method in told else None,
                    p=p,
                    p_holm=p_holm,
                    marks=tuple(marks),
                )
            )
        return rows

    def _best(self, means: Mapping[str, Figure | None], metric: Metric) -> list[str]:
        """The candidates with the best value: several where they tie, none where nothing sets any apart."""
        there = {
            method: mean.value
            for method, mean in means.items()
            if mean is not None and method not in self.no_candidates
        }
        if not there:
            return []
        best = (max if metric.is_better_high else min)(there.values())
        tied = [method for method, value in there.items() if math.isclose(value, best, abs_tol=1e-12)]
        return [] if len(tied) == len(there) else tied

    def _best_marks(self, method: str, best: Sequence[str], place: Place, metric: Metric) -> list[str]:
        """Whether a method alone is the best, or not shown to be another. What is no candidate has no marks."""
        if method in self.no_candidates or not best:
            return []
        if method in best:
            return ["best" if len(best) == 1 else "best within noise"]
        first, second = (best[0], method) if method == BASE else (method, best[0])
        gap = self.difference(first, second, place, metric.name)
        ends = gap.estimate() if gap else None
        is_near = ends and ends.low is not None and ends.high is not None and ends.low <= 0 <= ends.high
        return ["best within noise"] if is_near else []

    def label(self, method: str) -> str:
        """A recipe's name, with its mark if it is an upper bound."""
        if method == BASE_VOTES:
            return f"{BASE} with {self.pass_k} votes"
        return label_of(method) + (f" ({USES_GOLD})" if method in self.bounds else "")

    def note(self, method: str) -> str:
        """What each answer costs where it is more than one pass, and what became of a method's cells."""
        if method == BASE_VOTES:
            return f"{self.pass_k} samples for each answer"
        counts = self.found.num_cells.get(method)
        if counts is None:
            return ""
        parts = ["a pass for each order of the choices, for each answer"] * (method in self.averages_orders)
        if counts[FAILED]:
            parts.append(
                f"failed: {counts[FAILED]} of {counts['all']} cells ({self.found.failures[method][0]})"
            )
        waiting = counts["all"] - counts[FINISHED] - counts[FAILED]
        if waiting:
            parts.append(f"not run: {waiting} of {counts['all']} cells")
        return "; ".join(parts)

    def cost(self, method: str) -> dict[str, int]:
        """Optimiser steps, and tokens generated and trained on, a finished cell on average."""
        count = self.found.num_cells.get(method, {}).get(FINISHED, 0)
        costs = self.found.costs.get(method, {})
        return {
            name: round(costs.get(name, 0) / count) if count else 0
            for name in ("steps", "tokens_generated", "tokens_trained")
        }

    def report(self, notes: Sequence[str]) -> Comparison:
        """The comparison as the report shows it."""
        rows = self.rows()
        there = {row.method for row in rows}
        missing = [
            f"{self.label(method)}: {self.note(method)}" for method in self.methods if method not in there
        ]
        found: dict[tuple[str, Place], list[Row]] = {}
        for row in rows:
            found.setdefault((row.method, row.place), []).append(row)
        return Comparison(
            metrics=[
                ComparedMetric(m.name, m.label, "higher" if m.is_better_high else "lower")
                for m in self.metrics
            ],
            methods=[Method(method, self.label(method), self.note(method)) for method in self.methods],
            cells=[self._cell(key) for key in sorted(self.found.answers, key=self._key_order)],
            means=[
                MethodMean(
                    method=method,
                    place=place,
                    metrics={row.metric: row.found for row in own},
                    differences={row.metric: row.difference for row in own if row.difference},
                    marks={row.metric: row.marks for row in own if row.marks},
                )
                for (method, place), own in found.items()
            ],
            harness=self.found.harness_figures(self.methods),
            templates=self.found.template_shares(self.methods),
            notes=[*missing, *self._unread(), *notes],
        )

    def _unread(self) -> list[str]:
        """Why a calibration error is not shown."""
        names = dict.fromkeys(self.label(key[0]) for key in self.found.answers if not self._is_read(key))
        if not names:
            return []
        why = "hardly any answer could be read, so its votes say nothing"
        return [f"No calibration error is shown of {', '.join(names)}: {why}."]

    def _key_order(self, key: Key) -> tuple[int, str, int]:
        return self.methods.index(key[0]), key[1] or "", self.targets.index(key[2])

    def _cell(self, key: Key) -> ComparedCell:
        method, source, target = key
        diagrams = self.found.reliability[key]
        return ComparedCell(
            method=method,
            source=source,
            target=target,
            num_seeds=len(self.found.answers[key]),
            metrics={
                metric.name: self.figures[(*key, metric.name)].estimate()
                for metric in self.metrics
                if (*key, metric.name) in self.figures
            },
            reliability={"vote_share": pooled(diagrams)} if diagrams and self._is_shown(key, "ece") else {},
        )
