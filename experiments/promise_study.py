"""Does a recipe keep the promise? The table of part `promise` of cpu.sh, and the rule of LOG.md, over finished runs.

    python experiments/promise_study.py FOLDER [--keep FOLDER]

FOLDER holds GROUP/RECIPE-seedN: folders of `neuron-opsd run` with exact answers, or files that --keep wrote of them. A
group is a model on a domain (`large-commonsenseqa`). Intervals are 95 %, paired over questions. Seeds of a group answer
the same questions, so the ends of their intervals are averaged. Domains of a model are independent.
"""

# ruff: noqa: T201
import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from studies import mean_over_domains, show

from neuron_opsd.statistics import Interval, bootstrap_draws, bootstrap_interval
from neuron_opsd.store.files import read_json

Run = Mapping[str, Any]  # what `read_run` keeps
KEPT = ("avg", "maj", "maj_at_k", "pass_at_k", "ece", "option_ece", "option_ece_matched")
CONFIDENCES = {"ece": "at .6", "option_ece": "at 1", "option_ece_matched": "matched"}
ROUNDING = 1e-6  # of a temperature that was searched for
MARGIN = 0.01  # how far cross-domain Avg may fall


def read_run(path: Path) -> Run | None:
    """What the table needs of one run, without a text. None where it is not finished."""
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    results = read_json(path / "evaluation" / "results.json")
    if results is None:
        return None
    (cross,) = results["cross"]["domains"].values()
    blocks = {"in": results["in"], "cross": cross}
    rows = [row for row in results["questions"] if row["domain"] == results["train_domain"]]
    return {
        "num_questions": results["in"]["num_with_gold"],
        **{
            where: {name: block["metrics"][name] for name in KEPT if name in block["metrics"]}
            for where, block in blocks.items()
        },
        # For each question: p(right) of the trained model, and the expected majority of eight of the base model.
        "trained": [row["trained_correct_fraction"] for row in rows],
        "base_voted": [row["base_voted_correct"] for row in rows],
    }


def read_groups(folder: Path) -> dict[str, dict[str, list[Run]]]:
    """Runs by group and recipe. An unfinished one is named and left out."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for path in sorted(folder.glob("*/*-seed*")):
        match = re.fullmatch(r"(.+)-seed(\d+)(\.json)?", path.name)
        run = read_run(path) if match else None
        if match is None or run is None:
            print(f"{path} is no finished run: left out.", file=sys.stderr)
            continue
        groups.setdefault(path.parent.name, {}).setdefault(match[1], []).append(
            {**run, "seed": int(match[2])}
        )
    return groups


def change(runs: Sequence[Run], where: str, metric: str) -> Interval:
    """Trained minus base, mean over seeds."""
    found = [run[where][metric]["difference"] for run in runs]
    return Interval(*(float(np.mean([own[end] for own in found])) for end in ("value", "low", "high")))


def beyond_majority(runs: Sequence[Run]) -> Interval:
    """Trained Avg minus the base model's Maj@8, mean over seeds, paired over questions."""
    gains = np.mean([np.subtract(run["trained"], run["base_voted"]) for run in runs], axis=0)
    draws = bootstrap_draws(
        lambda weights: {"d": weights @ gains / weights.sum(axis=-1)},
        num_items=len(gains),
        num_resamples=2000,
        seed=0,
    )
    return bootstrap_interval(float(gains.mean()), draws["d"])


def both(runs: Sequence[Run], metric: str, where: str = "in") -> str:
    """`before, after`, means over seeds."""
    ends = (np.mean([run[where][metric][role]["value"] for run in runs]) for role in ("base", "trained"))
    return ", ".join(f"{end:.3f}" for end in ends)


def report(groups: Mapping[str, Mapping[str, Sequence[Run]]]) -> None:
    """Print the table of each group, and the rule for each model."""
    for group, recipes in groups.items():
        (num_questions,) = {run["num_questions"] for runs in recipes.values() for run in runs}
        print(f"\n### {group}, {num_questions} test questions: base, trained\n")
        named = [f"ECE {name}" for name in CONFIDENCES.values()]
        columns = [
            "recipe",
            "seeds",
            "Avg",
            "likeliest",
            "Maj@8",
            "pass@8",
            *named,
            "elsewhere Avg",
            "elsewhere ECE",
        ]
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for recipe, runs in recipes.items():
            cells = [both(runs, name) for name in KEPT] + [
                both(runs, name, "cross") for name in ("avg", "ece")
            ]
            print(f"| {recipe} | {len(runs)} | {' | '.join(cells)} |")
        print(
            "\n| recipe | Avg | (a) Avg - base's Maj@8 | (b) elsewhere Avg | (c) ECE at .6 | at 1 | matched |"
        )
        print("|---|---|---|---|---|---|---|")
        for recipe, runs in recipes.items():
            print(f"| {recipe} | {' | '.join(show(found, sign=True) for found in judged(runs).values())} |")
    for model in dict.fromkeys(group.split("-")[0] for group in groups):
        own = [recipes for group, recipes in groups.items() if group.split("-")[0] == model]
        print(f"\n### {model}: mean over domains\n")
        print("| recipe | domains | Avg | (a) | (b) | (c) at .6 | at 1 | matched | rule |")
        print("|---|---|---|---|---|---|---|---|---|")
        for recipe in dict.fromkeys(name for recipes in own for name in recipes):
            found = [judged(recipes[recipe]) for recipes in own if recipe in recipes]
            means = {name: mean_over_domains([each[name] for each in found]) for name in found[0]}
            cells = " | ".join(show(mean, sign=True) for mean in means.values())
            print(f"| {recipe} | {len(found)} | {cells} | {verdict(means)} |")


def judged(runs: Sequence[Run]) -> dict[str, Interval]:
    """What the rule looks at, and the change of Avg before it."""
    return {
        "avg": change(runs, "in", "avg"),
        "a": beyond_majority(runs),
        "b": change(runs, "cross", "avg"),
        **{name: change(runs, "in", name) for name in CONFIDENCES},
    }


def verdict(found: Mapping[str, Interval]) -> str:
    """The rule, part by part. (c) is missed where a higher ECE is shown by any confidence."""
    parts = {
        "a": found["a"].low > 0,
        "b": found["b"].low > -MARGIN,
        "c": all(found[name].low <= ROUNDING for name in CONFIDENCES),
    }
    return ", ".join(f"{name} {'kept' if is_kept else 'missed'}" for name, is_kept in parts.items())


def main() -> int:
    """Read the runs and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--keep", type=Path, help="write what was read of each run, without texts, into this folder"
    )
    arguments = parser.parse_args()
    groups = read_groups(arguments.folder)
    if not groups:
        print(f"No finished run below {arguments.folder}.", file=sys.stderr)
        return 2
    for group, recipes in groups.items() if arguments.keep else ():
        (arguments.keep / group).mkdir(parents=True, exist_ok=True)
        for recipe, runs in recipes.items():
            for run in runs:
                file = arguments.keep / group / f"{recipe}-seed{run['seed']}.json"
                file.write_text(json.dumps(run, sort_keys=True), encoding="utf-8")
    report(groups)
    return 0


if __name__ == "__main__":
    sys.exit(main())
