"""Did the preflight foresee the gain? Every kept run that had one: what it said beside what training brought.

python experiments/preflight_study.py RUNS...             folders or files as training_study.py reads them
python experiments/preflight_study.py --halves RUNS...    fit on half of the studies, tested on the other half

A study is one model and one domain. Runs of one study share both, so halves are made of whole studies: a measure that
only tells models and domains apart must not count as foresight.
"""

# ruff: noqa: T201
import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from studies import show
from training_study import difference, read_runs, table_of

from neuron_opsd.statistics import Interval, pearson

MEASURES = {
    "entropy_change": "entropy change",
    "divergence": "KL(student, teacher)",
    "answers_flipped": "answers flipped",
    "readable_change": "readable, teacher - student",
}


OUTCOMES: tuple[str, ...] = ("gain in Avg", "Avg - base's Maj")
NUM_NEEDED = 4  # a correlation of fewer runs has no interval


@dataclass(frozen=True)
class Row:
    """One run: what the preflight measured, and what training brought in-domain."""

    study: str
    name: str
    measures: Mapping[str, float]
    outcomes: Mapping[str, float]


def read_rows(paths: Sequence[str]) -> list[Row]:
    """Every run that had a preflight."""
    rows = []
    for path in map(Path, paths):
        for name, seeds in read_runs([str(path)]).items():
            for seed, results in seeds.items():
                if "entropy_change" not in results["preflight"]:
                    continue
                base, trained = (
                    table_of({seed: results}, results["train_domain"], role) for role in ("base", "trained")
                )
                beyond = float((trained["correct_fraction"] - base["majority_correct"]).mean())
                found = dict(zip(OUTCOMES, (difference(base, trained, "Avg").value, beyond), strict=True))
                rows.append(Row(path.parent.name, f"{name}, seed {seed}", results["preflight"], found))
    return rows


def main() -> None:
    """Print a row for each run, and the correlations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--halves", action="store_true")
    arguments = parser.parse_args()
    rows = read_rows(arguments.runs)
    if not rows:
        sys.exit("None of the runs has a preflight.")
    (print_halves if arguments.halves else print_runs)(rows)


def print_halves(rows: Sequence[Row]) -> None:
    """For each measure and outcome: r within each half, as it is and within studies."""
    studies = sorted({row.study for row in rows})
    halves = [[row for row in rows if row.study in studies[start::2]] for start in (0, 1)]
    shown = [f"{' and '.join(studies[start::2])} ({len(halves[start])} runs)" for start in (0, 1)]
    print(f"Fit on {shown[0]}, tested on {shown[1]}.\n")
    print("| measure | outcome | fit | test | fit, within studies | test, within studies | foresees |")
    print("|---|---|---|---|---|---|---|")
    for name in sorted({name for row in rows for name in row.measures}):
        for outcome in OUTCOMES:
            pairs = [take(half, name, outcome) for take in (_pairs, _within_studies) for half in halves]
            if min(map(len, pairs)) < NUM_NEEDED:
                continue
            found = [pearson(*own.T) for own in pairs]
            cells = [show(Interval(one.value, one.low, one.high), sign=True) for one in found]
            # The same sign in both halves, within studies, and an interval of the test half that leaves out 0.
            fit, test = found[2:]
            foresees = fit.value * test.value > 0 and not test.low <= 0 <= test.high
            print(f"| {name} | {outcome} | {' | '.join(cells)} | {'yes' if foresees else 'no'} |")


def _pairs(rows: Sequence[Row], name: str, outcome: str) -> np.ndarray:
    """(measure, outcome) of each run that has the measure."""
    has = [row for row in rows if row.measures.get(name) is not None]
    return np.array([(row.measures[name], row.outcomes[outcome]) for row in has])


def _within_studies(rows: Sequence[Row], name: str, outcome: str) -> np.ndarray:
    """The same, each less its study's mean: what is left when one model and one domain are compared with themselves."""
    studies = dict.fromkeys(row.study for row in rows)
    parts = [_pairs([row for row in rows if row.study == study], name, outcome) for study in studies]
    return np.concatenate([part - part.mean(axis=0) for part in parts if len(part)])


def print_runs(rows: Sequence[Row]) -> None:
    """A row for each run, and the correlations with the gain."""
    print(f"| run | {' | '.join(MEASURES.values())} | gain in Avg, in-domain |")
    print("|---" * (len(MEASURES) + 2) + "|")
    for row in rows:
        cells = [f"{row.measures[key]:+.3f}" if key in row.measures else "" for key in MEASURES]
        print(f"| {row.study}: {row.name} | {' | '.join(cells)} | {row.outcomes[OUTCOMES[0]]:+.3f} |")
    cells = []
    for key in MEASURES:
        pairs = _pairs(rows, key, OUTCOMES[0])
        found = pearson(*pairs.T)
        cells.append(f"{show(Interval(found.value, found.low, found.high), sign=True)}, n = {len(pairs)}")
    print(f"| Pearson's r with the gain (95 %) | {' | '.join(cells)} | |")


if __name__ == "__main__":
    main()
