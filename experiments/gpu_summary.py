"""Gather what experiments/gpu.sh made into a few small files.

    python experiments/gpu_summary.py PLACE RESULTS

PLACE/runs/NAME/seed-N are runs of `neuron-opsd run`. In RESULTS: tables.md and summary.json (both models of every run,
and its differences, paired over questions, means of the seeds), runs.json.gz (each run's results.json, timings and
training metrics), environment.json, steps.tsv, texts.md (signal, study and benchmarks), log.txt.
"""

import argparse
import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from training_study import difference, statistic, table_of

from neuron_opsd.statistics import Interval

METHOD = "neuron_opsd"  # what the others are compared with, beside base
TEXTS = ("signal.txt", "study.txt", "speed-*.txt")
MAX_LOG = 4_000_000

Run = dict[str, Any]


METRICS = {"avg": "Avg", "ece": "ECE-15"}  # as they are called here, and by training_study


def read_runs(place: Path) -> dict[str, dict[str, Run]]:
    """By name and seed, those that are evaluated."""
    runs: dict[str, dict[str, Run]] = {}
    for file in sorted(place.glob("runs/*/seed-*/evaluation/results.json")):
        folder = file.parents[1]
        run = {"results": json.loads(file.read_text(encoding="utf-8"))}
        for name, path in (("timings", "timings.jsonl"), ("metrics", "training/metrics.jsonl")):
            lines = (
                (folder / path).read_text(encoding="utf-8").splitlines() if (folder / path).is_file() else []
            )
            run[name] = [json.loads(line) for line in lines]
        runs.setdefault(folder.parent.name, {})[folder.name.removeprefix("seed-")] = run
    return runs


def ids_of(run: Run, domain: str) -> list[str]:
    """The questions of a domain that have gold answers."""
    rows = run["results"]["questions"]
    return sorted(
        r["question_id"] for r in rows if r["domain"] == domain and r["base_correct_fraction"] is not None
    )


def row_of(name: str, runs: Mapping[str, Mapping[str, Run]], domain: str) -> dict[str, Any]:
    """One row of a table: a recipe or variant on one domain; seeds that saw other questions are left out."""
    first = next(iter(runs[name].values()))
    ids = ids_of(first, domain)
    seeds = {s: run["results"] for s, run in runs[name].items() if ids_of(run, domain) == ids}
    methods = {s: run["results"] for s, run in runs.get(METHOD, {}).items() if ids_of(run, domain) == ids}
    shared = [seed for seed in seeds if name != METHOD and seed in methods]
    base, own = (table_of(seeds, domain, role) for role in ("base", "trained"))
    one = np.ones((1, len(ids)))
    row: dict[str, Any] = {"name": name, "seeds": list(seeds), "num_questions": len(ids)}
    for key, metric in METRICS.items():
        by_seed = {
            seed: float(statistic(table_of({seed: results}, domain, "trained"), metric, one)[0])
            for seed, results in seeds.items()
        }
        row[key] = {
            "by_seed": by_seed,
            "trained": float(statistic(own, metric, one)[0]),
            "base": float(statistic(base, metric, one)[0]),
            "minus_base": vars_of(difference(base, own, metric)),
        }
        if shared:
            pair = (table_of({s: of[s] for s in shared}, domain, "trained") for of in (seeds, methods))
            row[key]["method_minus_this"] = vars_of(difference(*pair, metric))
    blocks = [block for seed in seeds if (block := block_of(runs[name][seed], domain))]
    row["metrics"] = [block["metrics"] for block in blocks]
    row["num_samples"] = first["results"]["num_samples"]
    return row


def block_of(run: Run, domain: str) -> dict[str, Any] | None:
    """The block of results.json for a domain, with every metric."""
    results = run["results"]
    return results["in"] if domain == results["train_domain"] else results["cross"]["domains"].get(domain)


def vars_of(interval: Interval) -> dict[str, float | None]:
    """An interval as JSON: no NaN."""
    named = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: value if np.isfinite(value) else None for name, value in named.items()}


def shown(interval: Mapping[str, float | None] | None) -> str:
    """`+.047 [-.000, +.094]`."""
    if interval is None or interval["value"] is None:
        return ""
    ends = "" if interval["low"] is None else f" [{interval['low']:+.3f}, {interval['high']:+.3f}]"
    return f"{interval['value']:+.3f}{ends}"


def tables(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Markdown, a table a domain."""
    lines = [
        "Paired 95 % intervals over questions, means of the seeds; they do not cover what another seed would change,",
        "and are not corrected for how many there are. ECE is of vote shares, 15 bins.",
    ]
    for domain, of_domain in rows.items():
        lines += [
            f"\n## {domain}, {of_domain[0]['num_questions']} questions\n",
            f"| recipe | seeds | Avg, base | Avg | minus base | {METHOD} minus this | ECE, base | ECE | minus base |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in of_domain:
            avg, error = row["avg"], row["ece"]
            lines.append(
                f"| {row['name']} | {', '.join(row['seeds'])} | {avg['base']:.3f} | {avg['trained']:.3f} | "
                f"{shown(avg['minus_base'])} | {shown(avg.get('method_minus_this'))} | {error['base']:.3f} | "
                f"{error['trained']:.3f} | {shown(error['minus_base'])} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write what is there by now."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", type=Path)
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    place, results = arguments.place, arguments.results
    results.mkdir(parents=True, exist_ok=True)
    for name in ("environment.json", "steps.tsv"):
        if (place / name).is_file():
            shutil.copyfile(place / name, results / name)
    if (place / "log.txt").is_file():
        (results / "log.txt").write_bytes((place / "log.txt").read_bytes()[-MAX_LOG:])
    files = [file for pattern in TEXTS for file in sorted(place.glob(pattern))]
    texts = [f"# {file.name}\n\n{file.read_text(encoding='utf-8')}" for file in files]
    if texts:
        (results / "texts.md").write_text("\n".join(texts), encoding="utf-8")
    if runs := read_runs(place):
        domains = list(
            dict.fromkeys(d for name in runs for run in runs[name].values() for d in domains_of(run))
        )
        rows = {domain: [row_of(name, runs, domain) for name in runs] for domain in domains}
        (results / "tables.md").write_text(tables(rows), encoding="utf-8")
        (results / "summary.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        with gzip.open(results / "runs.json.gz", "wt", encoding="utf-8") as file:
            json.dump(runs, file)


def domains_of(run: Run) -> list[str]:
    """Those with gold answers, the trained one first."""
    results = run["results"]
    found = [results["train_domain"], *results["cross"]["domains"]]
    return [domain for domain in found if ids_of(run, domain)]


if __name__ == "__main__":
    main()
