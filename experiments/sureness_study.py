"""What did training change: how sure the model is, or what it prefers? Over finished runs with exact letters.

    python experiments/sureness_study.py FOLDER [--keep FOLDER]

FOLDER holds GROUP/RECIPE-seedN: folders of `neuron-opsd run`, or files that --keep wrote of them. `tau` is the
temperature that gives the trained model the base's mean entropy over the field's test questions. `matched` is the
trained model with it, also elsewhere: what `training.student_entropy=matched` would publish, had it measured on these.
`slope` is that of the trained model's letter logits on the base's. Probabilities are over the letters alone. Intervals
are 95 %, paired over questions.
"""

# ruff: noqa: T201
import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from studies import NUM_RESAMPLES, mean_interval, show

from neuron_opsd.evaluation.calibration import ece
from neuron_opsd.evaluation.evaluate import gold_answers
from neuron_opsd.evaluation.temperatures import matching_temperature, mean_entropy, tempered
from neuron_opsd.run.session import Run
from neuron_opsd.statistics import Interval, bootstrap_draws, bootstrap_interval
from neuron_opsd.store.files import read_json_lines
from neuron_opsd.store.run_folder import RunFolder

Letters = Mapping[str, Any]  # of a domain: the place of each gold letter, and each role's log-probabilities
Values = NDArray[np.float64]
ROLES = ("base", "trained", "matched")


def read_letters(path: Path) -> dict[str, Any] | None:
    """Letters by domain, the field first, without a text. None where the run is not finished."""
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    files = {role: path / "evaluation" / role / "records.jsonl" for role in ("base", "trained")}
    if not all(file.is_file() for file in files.values()):
        return None
    run = Run(RunFolder.open(path))
    gold = gold_answers(run.records.test_questions, run.config.evaluation, run.config.questions)
    rows = {
        role: {row["question_id"]: row["option_log_probs"] for row in read_json_lines(file)}
        for role, file in files.items()
    }
    found: dict[str, Any] = {}
    for question, answer in sorted(gold, key=lambda pair: pair[0].domain not in run.records.train_domains):
        domain = found.setdefault(question.domain, {"gold": [], "base": [], "trained": []})
        domain["gold"].append("ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(answer))
        for role, own in rows.items():
            domain[role].append([round(value, 5) for value in own[question.question_id]])
    return {"temperature": run.config.evaluation.temperature, "domains": found}


def measures(letters: Letters, role: str, temperature: float) -> dict[str, Values]:
    """For each question: p(right), whether the likeliest letter is right, and how likely that is."""
    shares = [tempered(np.exp(row), temperature) for row in letters[role]]
    right = [float(own[gold]) for own, gold in zip(shares, letters["gold"], strict=True)]
    likeliest = [float(own.argmax() == gold) for own, gold in zip(shares, letters["gold"], strict=True)]
    return {
        "avg": np.array(right),
        "likeliest": np.array(likeliest),
        "confidence": np.array([own.max() for own in shares]),
    }


def slope(letters: Letters) -> float:
    """Of the trained model's logits on the base's, each question's about its mean."""
    base, trained = ([np.array(row) - np.mean(row) for row in letters[role]] for role in ROLES[:2])
    covariance = sum(float(one @ other) for one, other in zip(base, trained, strict=True))
    return covariance / sum(float(one @ one) for one in base)


def temperature_of(letters: Letters) -> float:
    """Which gives the trained model the base's mean entropy."""
    base, trained = ([np.exp(row) / np.exp(row).sum() for row in letters[role]] for role in ROLES[:2])
    return matching_temperature(trained, mean_entropy(base))


def report(runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a row for each run and domain."""
    columns = [
        "run",
        "domain",
        "slope",
        "tau",
        *(f"{name}: base, trained, matched" for name in ("Avg", "likeliest", "ECE")),
    ]
    columns += ["Avg, matched - base", "likeliest, trained - base", "ECE, matched - base"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, run in runs.items():
        domains, use = run["domains"], run["temperature"]
        tau = temperature_of(next(iter(domains.values())))
        for domain, letters in domains.items():
            found = {
                "base": measures(letters, "base", use),
                "trained": measures(letters, "trained", use),
                "matched": measures(letters, "trained", use * tau),
            }
            cells = [name, domain, f"{slope(letters):.2f}", f"{tau:.2f}"]
            cells += [_over_roles(found, kind) for kind in ("avg", "likeliest")]
            errors = (ece(own["confidence"], own["likeliest"]) for own in found.values())
            cells.append(", ".join(f"{error:.3f}" for error in errors))
            cells += [
                show(mean_interval(found[role][kind] - found["base"][kind]), sign=True)
                for role, kind in (("matched", "avg"), ("trained", "likeliest"))
            ]
            cells.append(show(ece_change(found["base"], found["matched"]), sign=True))
            print(f"| {' | '.join(cells)} |")


def ece_change(before: Mapping[str, Values], after: Mapping[str, Values]) -> Interval:
    """ECE after minus before, paired over questions."""

    def change(weights: Values | None = None) -> Values:
        ends = (ece(own["confidence"], own["likeliest"], weights=weights) for own in (before, after))
        return -np.subtract(*ends)

    draws = bootstrap_draws(
        lambda weights: {"d": change(weights)},
        num_items=len(before["avg"]),
        num_resamples=NUM_RESAMPLES,
        seed=0,
    )
    return bootstrap_interval(float(change()), draws["d"])


def _over_roles(found: Mapping[str, Mapping[str, Values]], kind: str) -> str:
    return ", ".join(f"{found[role][kind].mean():.3f}" for role in ROLES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the runs and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--keep", type=Path, help="write the letters' log-probabilities of each run into this folder"
    )
    given = parser.parse_args(arguments)
    runs: dict[str, Mapping[str, Any]] = {}
    for path in sorted(given.folder.glob("*/*-seed*")):
        run = read_letters(path)
        if run is None:
            print(f"{path} is no finished run: left out.", file=sys.stderr)
            continue
        runs[f"{path.parent.name}/{path.name.removesuffix('.json')}"] = run
    if not runs:
        print(f"No finished run below {given.folder}.", file=sys.stderr)
        return 2
    for name, run in runs.items() if given.keep else ():
        file = given.keep / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(run), encoding="utf-8")
    report(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
