"""What the studies of this folder share: a sample of labelled questions, rows that survive a kill, small statistics.

A study may open gold answers, because nothing is trained on what it writes.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.evaluation.calibration import auroc
from neuron_opsd.questions.load import read_questions
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Question
from neuron_opsd.statistics import Interval, bootstrap_draws, bootstrap_interval, pearson

Row = dict[str, Any]
Values = NDArray[np.float64]
NUM_RESAMPLES = 2000


def add_measure_options(parser: argparse.ArgumentParser) -> None:
    """The options of every study's `measure`: the frozen model, the labelled questions, how it is asked."""
    parser.add_argument("--model", required=True)
    parser.add_argument("--label", required=True, help="the model's name in the tables")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--questions", required=True)
    parser.add_argument("--answers", action="append", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--max-new-tokens", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)


def labelled_sample(
    path: str, answers: Sequence[str], count: int, *, seed: int
) -> tuple[list[Question], dict[str, str]]:
    """At most `count` questions that have an answer, by a hash of seed and id, and the key."""
    questions = read_questions(path)
    key = load_answer_key(answers, questions)
    known = [question for question in questions if question.question_id in key]
    return sorted(known, key=lambda q: derive_seed(seed, "study", q.question_id))[:count], key


def keep_settings(folder: Path, settings: Row, *, free: Sequence[str], later: Sequence[str] = ()) -> None:
    """Write settings.json; where rows of other settings lie (`free` ones aside), stop: they would be mixed.

    What was not set before (None) may be set `later`, and stays set.
    """
    file = folder / "settings.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
    settings = {
        name: before.get(name) if value is None and name in later else value
        for name, value in settings.items()
    }
    for name in settings:
        if name in later and before.get(name) is None:
            continue
        if name not in free and settings[name] != before.get(name):
            sys.exit(
                f"{folder} has rows of other settings: {name} is {settings[name]}, and was {before.get(name)}. Give "
                "another --output, or the same settings."
            )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Rows written so far; a line cut by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def resumable(
    path: Path,
    items: Sequence[Any],
    name_of: Callable[[Any], str],
    make: Callable[[list[Any]], Iterable[Row]],
    *,
    batch: int,
) -> list[Row]:
    """Rows of all items: those in the file as they are, the others made, `batch` items at a time, and appended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():  # drop a cut line
        whole = path.read_text(encoding="utf-8")
        path.write_text(whole[: whole.rfind("\n") + 1], encoding="utf-8")
    done = {row["name"] for row in read_rows(path)}
    waiting = [item for item in items if name_of(item) not in done]
    started = time.monotonic()
    for start in range(0, len(waiting), batch):
        rows = list(make(waiting[start : start + batch]))
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        finished = min(start + batch, len(waiting))
        rate = finished / (time.monotonic() - started)
        print(f"{path.name}: {len(done) + finished} of {len(items)} ({rate:.2f}/s)", flush=True)  # noqa: T201
    by_name = {row["name"]: row for row in read_rows(path)}
    return [by_name[name_of(item)] for item in items if name_of(item) in by_name]


def mean_interval(values: Values, *, seed: int = 0) -> Interval:
    """Mean over questions with its 95 % bootstrap interval."""
    draws = bootstrap_draws(
        lambda weights: {"mean": weights @ values / len(values)},
        num_items=len(values),
        num_resamples=NUM_RESAMPLES,
        seed=seed,
    )
    return bootstrap_interval(float(values.mean()), draws["mean"])


def auroc_interval(confidence: Values, right: Values, *, seed: int = 0) -> Interval:
    """Chance that a right reply has more confidence than a wrong one; 95 % bootstrap over questions."""
    draws = bootstrap_draws(
        lambda weights: {"auroc": auroc(confidence, right, weights=weights)},
        num_items=len(right),
        num_resamples=NUM_RESAMPLES,
        seed=seed,
    )
    return bootstrap_interval(float(auroc(confidence, right)), draws["auroc"])


def mean_over_domains(estimates: Sequence[Interval]) -> Interval:
    """Unweighted mean of independent estimates; half-widths add in squares."""
    value = float(np.mean([e.value for e in estimates]))
    half = float(np.sqrt(np.sum([((e.high - e.low) / 2) ** 2 for e in estimates])) / len(estimates))
    return Interval(value, value - half, value + half)


def pearson_interval(first: Values, second: Values) -> Interval:
    """Pearson's r, with Fisher's interval."""
    found = pearson(first, second)
    return Interval(found.value, found.low, found.high)


def show(interval: Interval, *, sign: bool = False) -> str:
    """`.57 [.51, .63]`."""
    form = "{:+.3f}" if sign else "{:.3f}"
    return f"{form.format(interval.value)} [{form.format(interval.low)}, {form.format(interval.high)}]"


def groups(rows: Sequence[Row], field: str) -> Iterator[tuple[str, list[Row]]]:
    """Rows by one field, in order of first appearance."""
    for value in dict.fromkeys(row[field] for row in rows):
        yield value, [row for row in rows if row[field] == value]
