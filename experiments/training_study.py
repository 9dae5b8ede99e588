"""Trained against base, and recipe against recipe, over finished runs and their seeds (docs/results.md).

    python experiments/training_study.py RUNS... [--against neuron_opsd] [--picture FILE.svg] [--keep FOLDER]

RUNS are folders of `neuron-opsd run`, named NAME-seedN, or files that --keep FOLDER wrote of them; runs of one NAME are
seeds of one recipe. For each domain of the test questions: Avg@k, Maj@k, ECE-15, parse rate of base and trained, and
differences paired over questions (a question's value is its mean over the seeds; 95 % bootstrap over questions, so it
says nothing of other seeds: standard deviation and Student's interval over seeds stand beside). Then recipe against
recipe by seed. "Avg - base's Maj": what a trained sample has beyond the base model's own majority, which colder
sampling alone would come near.
"""

# ruff: noqa: T201
import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from forest import Entry, forest
from scipy import stats
from studies import Values, show

from neuron_opsd.evaluation.calibration import ece
from neuron_opsd.statistics import Interval, bootstrap_draws, bootstrap_interval
from neuron_opsd.store.files import read_json

Table = dict[str, Values]  # metric's column -> (seeds, questions)
METRICS = ("Avg", "Maj", "ECE-15")
COLUMNS = ("correct_fraction", "majority_correct", "vote_share")


def read_runs(paths: Sequence[str]) -> dict[str, dict[int, dict[str, Any]]]:
    """Results by name and seed; an unfinished run is named and left out."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in map(Path, paths):
        match = re.fullmatch(r"(.+)-seed(\d+)(\.json)?", path.name)
        if match is None:
            sys.exit(f"{path}: a run's folder must be named NAME-seedN.")
        if path.is_file():
            found.setdefault(match[1], {})[int(match[2])] = json.loads(path.read_text(encoding="utf-8"))
            continue
        results = read_json(path / "evaluation" / "results.json")
        if results is None:
            print(f"{path} has no evaluation/results.json: left out.", file=sys.stderr)
            continue
        verdict = read_json(path / "preflight" / "verdict.json") or {}
        measures = {m["name"]: m["value"] for m in verdict.get("measures", ())}
        found.setdefault(match[1], {})[int(match[2])] = {
            "questions": results["questions"],
            "train_domain": results["train_domain"],
            "in": {"metrics": results["in"]["metrics"]},
            "cross": {
                "domains": {
                    name: {"metrics": own["metrics"]} for name, own in results["cross"]["domains"].items()
                }
            },
            "preflight": measures,
        }
    return found


def table_of(seeds: Mapping[int, Mapping[str, Any]], domain: str, role: str) -> Table:
    """Columns of one model on one domain, seeds in rows; questions by id."""
    columns: dict[str, list[list[float]]] = {name: [] for name in COLUMNS}
    for results in seeds.values():
        rows = [
            row
            for row in results["questions"]
            if row["domain"] == domain and row[f"{role}_correct_fraction"] is not None
        ]
        rows.sort(key=lambda row: row["question_id"])
        for name in COLUMNS:
            columns[name].append([float(row[f"{role}_{name}"]) for row in rows])
    return {name: np.array(values) for name, values in columns.items()}


def statistic(table: Table, metric: str, weights: Values) -> Values:
    """Mean over seeds of a metric under weights over the questions."""
    if metric == "ECE-15":
        per_seed = [
            ece(share, right, weights=weights)
            for share, right in zip(table["vote_share"], table["majority_correct"], strict=True)
        ]
        return np.mean(per_seed, axis=0)
    values = table["correct_fraction" if metric == "Avg" else "majority_correct"].mean(axis=0)
    return weights @ values / weights.sum(axis=-1)


def difference(before: Table, after: Table, metric: str, *, metric_before: str | None = None) -> Interval:
    """After minus before, paired over questions; `metric_before` where the two are measured apart."""
    num_items = before["vote_share"].shape[1]

    def minus(weights: Values) -> Values:
        return statistic(after, metric, weights) - statistic(before, metric_before or metric, weights)

    value = float(minus(np.ones((1, num_items)))[0])
    draws = bootstrap_draws(
        lambda weights: {"d": minus(weights)},
        num_items=num_items,
        num_resamples=2000,
        seed=0,
    )
    return bootstrap_interval(value, draws["d"])


def report(
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]], against: str, picture: str | None = None
) -> None:
    """Print the tables."""
    first = next(iter(next(iter(runs.values())).values()))
    domains = [first["train_domain"], *first["cross"]["domains"]]
    entries: list[Entry] = []
    for domain in domains:
        kind = "in-domain" if domain == domains[0] else "cross-domain"
        print(f"\n### {domain} ({kind})\n")
        print(
            f"| run | seeds | n | metric | base | trained | trained - base | over seeds: sd, 95 % | minus {against} |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for name in runs:
            rows, gains = _gains(runs, name, against, domain)
            print("\n".join(rows))
            entries += [(f"{name}: {metric}, {domain}", gain) for metric, gain in gains if metric != "Maj"]
        _report_by_seed(runs, against, domain)
        print(
            f"\n| run | Avg - base's Maj | {' | '.join(PLAIN.values())} |\n|---{'|---' * (len(PLAIN) + 1)}|"
        )
        for name, seeds in runs.items():
            ends = (table_of(seeds, domain, role) for role in ("base", "trained"))
            beyond = show(difference(*ends, "Avg", metric_before="Maj"), sign=True)
            cells = [beyond, *(_plain(seeds, domain, metric) for metric in PLAIN)]
            print(f"| {name} | {' | '.join(cells)} |")
    if picture:
        forest(
            Path(picture),
            "Trained minus base",
            "accuracy of a sample, and ECE-15",
            sorted(entries, key=_order),
        )


def _gains(
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]], name: str, against: str, domain: str
) -> tuple[list[str], list[tuple[str, Interval]]]:
    """One run's lines of the first table, and trained minus base by metric."""
    seeds = runs[name]
    base, trained = table_of(seeds, domain, "base"), table_of(seeds, domain, "trained")
    num_items = base["vote_share"].shape[1]
    ones = np.ones((1, num_items))
    common = [seed for seed in seeds if seed in runs.get(against, ())] if name != against else []
    lines, gains = [], []
    for metric in METRICS:
        before, after = (float(statistic(t, metric, ones)[0]) for t in (base, trained))
        own = [difference(_seed(base, i), _seed(trained, i), metric).value for i in range(len(seeds))]
        seen = over_seeds(own)
        spread = f"{np.std(own, ddof=1):.3f}, [{seen.low:+.3f}, {seen.high:+.3f}]" if len(own) > 1 else ""
        other = ""
        if common:
            theirs, ours = (
                table_of({s: runs[n][s] for s in common}, domain, "trained") for n in (against, name)
            )
            other = show(difference(theirs, ours, metric), sign=True)
        gains.append((metric, difference(base, trained, metric)))
        lines.append(
            f"| {name} | {len(seeds)} | {num_items} | {metric} | {before:.3f} | {after:.3f} | "
            f"{show(gains[-1][1], sign=True)} | {spread} | {other} |"
        )
    return lines, gains


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean of one value a seed, with Student's 95 % interval; infinite for one seed."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def _report_by_seed(runs: Mapping[str, Mapping[int, Mapping[str, Any]]], against: str, domain: str) -> None:
    """Trained minus trained, seed by seed: the questions are the same, so only the seed moves the mean."""
    rows = []
    for name, seeds in runs.items():
        common = sorted(set(seeds) & set(runs.get(against, ()))) if name != against else []
        for metric in METRICS if len(common) > 1 else ():
            tables = [[table_of({s: runs[n][s]}, domain, "trained") for n in (against, name)] for s in common]
            found = [difference(theirs, ours, metric).value for theirs, ours in tables]
            by_seed = ", ".join(f"{value:+.3f}" for value in found)
            rows.append(f"| {name} | {metric} | {by_seed} | {show(over_seeds(found), sign=True)} |")
    if rows:
        print(f"\n| run minus {against} | metric | by seed | mean (95 % over seeds) |\n|---|---|---|---|")
        print("\n".join(rows))


def _order(entry: Entry) -> str:
    """Metric and domain first, then the recipe."""
    name, what = entry[0].split(": ")
    return f"{what} {name}"


PLAIN = {
    "parse_rate": "readable",
    "completion_tokens": "tokens",
    "truncated_fraction": "cut",
    "vote_share": "vote share",
    "overconfidence": "overconfidence",
    "balanced_accuracy": "balanced accuracy",
}


def _plain(seeds: Mapping[int, Mapping[str, Any]], domain: str, metric: str) -> str:
    """`before -> after`, means of the seeds; not paired."""
    ends = []
    for role in ("base", "trained"):
        values = []
        for results in seeds.values():
            block = (
                results["in"] if domain == results["train_domain"] else results["cross"]["domains"][domain]
            )
            values.append(block["metrics"][metric][role]["value"])
        ends.append(f"{np.mean(values):.3f}")
    return " -> ".join(ends)


def _seed(table: Table, place: int) -> Table:
    return {name: values[place : place + 1] for name, values in table.items()}


def main() -> None:
    """Read the runs and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--against", default="neuron_opsd", help="the name that the others are compared with")
    parser.add_argument("--picture")
    parser.add_argument(
        "--keep", type=Path, help="write what was read of each run, without texts, into this folder"
    )
    arguments = parser.parse_args()
    runs = read_runs(arguments.runs)
    if not runs:
        sys.exit("No finished run among those named.")
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        for name, seeds in runs.items():
            for seed, results in seeds.items():
                kept = json.dumps(results, sort_keys=True)
                (arguments.keep / f"{name}-seed{seed}.json").write_text(kept, encoding="utf-8")
    report(runs, arguments.against, arguments.picture)


if __name__ == "__main__":
    main()
