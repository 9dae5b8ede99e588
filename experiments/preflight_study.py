"""Did the preflight foresee the gain? Every kept run that had one: what it said beside what training brought.

python experiments/preflight_study.py RUNS...       folders or files as training_study.py reads them
"""

# ruff: noqa: T201
import argparse
import sys
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


def main() -> None:
    """Print a row for each run, and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    rows = []
    for path in map(Path, parser.parse_args().runs):
        for name, seeds in read_runs([str(path)]).items():
            for seed, results in seeds.items():
                measures = results["preflight"]
                if "entropy_change" in measures:
                    ends = [
                        table_of({seed: results}, results["train_domain"], role)
                        for role in ("base", "trained")
                    ]
                    gain = difference(*ends, "Avg").value
                    rows.append((f"{path.parent.name}: {name}, seed {seed}", measures, gain))
    if not rows:
        sys.exit("None of the runs has a preflight.")
    print(f"| run | {' | '.join(MEASURES.values())} | gain in Avg, in-domain |")
    print("|---" * (len(MEASURES) + 2) + "|")
    for name, measures, gain in rows:
        cells = [f"{measures[key]:+.3f}" if key in measures else "" for key in MEASURES]
        print(f"| {name} | {' | '.join(cells)} | {gain:+.3f} |")
    cells = []
    for key in MEASURES:
        pairs = np.array([(measures[key], gain) for _, measures, gain in rows if key in measures])
        found = pearson(*pairs.T)
        cells.append(f"{show(Interval(found.value, found.low, found.high), sign=True)}, n = {len(pairs)}")
    print(f"| Pearson's r with the gain (95 %) | {' | '.join(cells)} | |")


if __name__ == "__main__":
    main()
