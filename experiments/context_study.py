"""Does the context make the teacher better, surer, better calibrated, and is it the neurons? See docs/results.md.

    python experiments/context_study.py measure --model MODEL --questions FILE --answers FILE --output FOLDER \
        [--format letter|free] [--pool 250] [--queries 120] [--demonstrations 2] [--other FILE] \
        [--conditions none,neuron,...]
    python experiments/context_study.py report FOLDER ... [--picture FILE.svg]

The frozen model answers `--pool` questions zero-shot; their neurons are read. Each of the first `--queries` of them is
then read again behind demonstrations from the pool, chosen in each way below, and the probability of every choice is
taken from one pass: no sampling noise. Started again it goes on.

    none             the student: no demonstration
    neuron           nearest by Jaccard distance of overlap sets, the model's own replies (the paper's)
    random           from the pool
    template         random among those that open alike (eight words), filled up at random
    tfidf            nearest by words
    embedding        nearest by the model's own mean hidden state
    neuron_permuted  neighbours as `neuron`, replies permuted over the pool: format and label prior alone
    random_permuted  the same for `random`
    other            random questions of --other, own replies: format without the subject
"""

# ruff: noqa: T201
import argparse
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from forest import Entry, forest
from studies import (
    Row,
    Values,
    add_measure_options,
    keep_settings,
    labelled_sample,
    mean_interval,
    read_rows,
    resumable,
    show,
)

from neuron_opsd.config import ContextSettings, ModelSettings, NeuronSettings, PromptSettings
from neuron_opsd.contexts.neighbours import find_neighbours
from neuron_opsd.contexts.replies import reply_givers
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.evaluation.calibration import ece
from neuron_opsd.evaluation.options import reply_texts
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_model
from neuron_opsd.model.option_scores import reply_log_probs
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.questions.duplicates import near_duplicates, template_key
from neuron_opsd.questions.load import read_questions
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Demonstration, Question
from neuron_opsd.rollouts.sample import sample_rollouts
from neuron_opsd.statistics import Interval, bootstrap_draws, bootstrap_interval
from neuron_opsd.text.prompts import teacher_messages

CONDITIONS = (
    "none",
    "neuron",
    "random",
    "template",
    "tfidf",
    "embedding",
    "neuron_permuted",
    "random_permuted",
    "other",
)
RETRIEVAL = {
    "neuron": "neuron_overlap",
    "random": "random",
    "tfidf": "tfidf",
    "embedding": "embedding",
    "other": "other_domain",
}  # contexts.retrieval of a condition


class Study:
    """One model and one domain."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = Path(arguments.output)
        self.model, self.tokenizer = load_model(ModelSettings(name=arguments.model, dtype=arguments.dtype))
        self.engine = HFEngine(self.model, self.tokenizer, batch_size=arguments.batch_size)
        self.encoder = ChatEncoder(self.tokenizer)
        self.pool, self.key = labelled_sample(
            arguments.questions, arguments.answers, arguments.pool, seed=arguments.seed
        )
        self.queries = self.pool[: arguments.queries]
        self.replies = self._zero_shot("pool", self.pool)
        self.alike = list(near_duplicates(self.pool, threshold=ContextSettings().near_duplicate_threshold))
        self.others: list[Question] = []
        if arguments.other:
            others = sorted(
                read_questions(arguments.other),
                key=lambda q: derive_seed(arguments.seed, "other", q.question_id),
            )
            self.others = others[:60]
            self.replies |= self._zero_shot("other", self.others)

    def _zero_shot(self, name: str, questions: Sequence[Question]) -> dict[str, Row]:
        """Reply and overlap set of each question."""
        arguments = self.arguments
        sampling = Sampling(temperature=0.6, top_p=1.0, max_new_tokens=arguments.max_new_tokens)

        def make(batch: list[Question]) -> Iterator[Row]:
            rollouts = sample_rollouts(
                batch,
                self.engine,
                self.encoder,
                prompts=PromptSettings(answer_format=arguments.format, system=arguments.system),
                sampling=sampling,
                num_rollouts=1,
                shuffle_choices=False,
                seed=arguments.seed,
                stage="context",
            )
            sets = capture_neurons(self.model, self.tokenizer, rollouts, NeuronSettings(batch_size=8))
            for rollout, own in zip(rollouts, sets, strict=True):
                yield {
                    "name": rollout.question_id,
                    "reply": rollout.reply,
                    "overlap": own.overlap_set.tolist(),
                }

        rows = resumable(
            self.folder / f"replies-{name}.jsonl", questions, lambda q: q.question_id, make, batch=32
        )
        return {row["name"]: row for row in rows}

    def neighbours(self, condition: str) -> list[list[Question]]:
        """For each query its demonstrations, nearest first: as the product finds them, but for `template`."""
        kind = condition.removesuffix("_permuted")
        candidates = self.others if kind == "other" else self.pool
        by_id = {question.question_id: question for question in candidates}
        if kind == "template":
            return [self._of_its_template(query) for query in self.queries]
        found = find_neighbours(
            self.queries,
            candidates,
            {name: row["reply"] for name, row in self.replies.items()},
            ContextSettings.model_validate(
                {"retrieval": RETRIEVAL[kind], "num_demonstrations": self.arguments.demonstrations}
            ),
            overlap_sets={
                name: np.array(row["overlap"], dtype=np.int32) for name, row in self.replies.items()
            },
            base_model=lambda: (self.model, self.tokenizer),
            seed=self.arguments.seed,
        )
        return [[by_id[name] for name, _ in found[query.question_id]] for query in self.queries]

    def _of_its_template(self, query: Question) -> list[Question]:
        """Questions of the query's own template first, in random order."""
        alike = {
            self.pool[j if self.pool[i] is query else i].question_id
            for i, j in self.alike
            if query in (self.pool[i], self.pool[j])
        }
        source = [q for q in self.pool if q is not query and q.question_id not in alike]
        random.Random(derive_seed(self.arguments.seed, "template", query.question_id)).shuffle(source)
        own = template_key(query.question)
        return sorted(source, key=lambda q: template_key(q.question) != own)[: self.arguments.demonstrations]

    def measure(self, condition: str) -> None:
        """Probability of every choice of every query behind one kind of context."""
        shown = [[] for _ in self.queries] if condition == "none" else self.neighbours(condition)
        replies = {name: row["reply"] for name, row in self.replies.items()}
        if condition.endswith("_permuted"):
            givers = reply_givers(self.replies, seed=self.arguments.seed)
            replies = {one: replies[giver] for one, giver in givers.items()}
        of_query = {q.question_id: own for q, own in zip(self.queries, shown, strict=True)}

        def make(batch: list[Question]) -> Iterator[Row]:
            prompts, options = [], []
            for question in batch:
                demonstrations = [
                    (
                        other,
                        Demonstration(
                            question_id=other.question_id,
                            choice_order=tuple(range(len(other.choices))),
                            reply=replies[other.question_id],
                            distance=0.0,
                        ),
                    )
                    for other in of_query[question.question_id]
                ]
                order = tuple(range(len(question.choices)))
                messages = teacher_messages(
                    question,
                    demonstrations,
                    choice_order=order,
                    answer_format=self.arguments.format,
                    system=self.arguments.system,
                )
                prompts.append(tuple(self.encoder.encode(messages)))
                texts = reply_texts(question, order, self.arguments.format)
                options.append(
                    [[tuple(self.encoder.encode_text(t)) for t in dict.fromkeys(own)] for own in texts]
                )
            log_probs = reply_log_probs(
                self.model, prompts, [[ids for own in row for ids in own] for row in options], batch_size=4
            )
            for question, prompt, row, values in zip(batch, prompts, options, log_probs, strict=True):
                values = iter(values)
                logs = [math.log(sum(math.exp(next(values)) for _ in own) + 1e-30) for own in row]
                yield {
                    "name": question.question_id,
                    "condition": condition,
                    "log_probs": logs,
                    "right": ord(self.key[question.question_id]) - ord("A"),
                    "prompt_tokens": len(prompt),
                    "same_template": float(
                        np.mean(
                            [
                                template_key(o.question) == template_key(question.question)
                                for o in of_query[question.question_id]
                            ]
                        )
                    )
                    if condition != "none"
                    else None,
                }

        resumable(
            self.folder / f"condition-{condition}.jsonl",
            self.queries,
            lambda q: q.question_id,
            make,
            batch=16,
        )


def probabilities(row: Row) -> Values:
    """Of the choices, normalised over them."""
    logs = np.array(row["log_probs"])
    logs = np.exp(logs - logs.max())
    return logs / logs.sum()


def figures(rows: Sequence[Row]) -> dict[str, Values]:
    """Per query: accuracy of the likeliest choice, its probability, probability of the right one, entropy."""
    shares = [probabilities(row) for row in rows]
    right = [row["right"] for row in rows]
    return {
        "accuracy": np.array([float(p.argmax() == r) for p, r in zip(shares, right, strict=True)]),
        "p_right": np.array([p[r] for p, r in zip(shares, right, strict=True)]),
        "entropy": np.array([-(p * np.log(p + 1e-12)).sum() for p in shares]),
        "answer": np.array([float(p.argmax()) for p in shares]),
        "confidence": np.array([p.max() for p in shares]),
        "mass": np.array([np.exp(row["log_probs"]).sum() for row in rows]),
    }


def report(folders: Sequence[str], picture: str | None) -> None:
    """Print a table for each folder: every condition, and its paired differences from `none` and from `random`."""
    entries: list[Entry] = []
    for folder in map(Path, folders):
        by_condition = {
            c: {row["name"]: row for row in read_rows(folder / f"condition-{c}.jsonl")} for c in CONDITIONS
        }
        by_condition = {c: rows for c, rows in by_condition.items() if rows}
        names = sorted(set.intersection(*(set(rows) for rows in by_condition.values())))
        settings = json.loads((folder / "settings.json").read_text())
        print(
            f"\n## {settings['label']}, {Path(settings['questions']).name.split('.')[0]}, n = {len(names)}, "
            f"{settings['demonstrations']} demonstrations from a pool of {settings['pool']}, {settings['format']}\n"
        )
        print("| " + " | ".join(COLUMNS) + " |")
        print("|---" * len(COLUMNS) + "|")
        rows_of = {c: [rows[name] for name in names] for c, rows in by_condition.items()}
        found = {c: figures(rows) for c, rows in rows_of.items()}
        entries.append(
            (f"{settings['label']}, {Path(settings['questions']).name.split('.')[0]}, n = {len(names)}", None)
        )
        for condition, rows in rows_of.items():
            if condition != "none":
                gain = found[condition]["p_right"] - found["none"]["p_right"]
                entries.append((condition.replace("_", ", replies "), mean_interval(gain)))
            cells = _cells(condition, found)
            flipped = found[condition]["answer"] != found["none"]["answer"]
            template = [row["same_template"] for row in rows if row["same_template"] is not None]
            cells += [f"{flipped.mean():.3f}", f"{found[condition]['mass'].mean():.3f}"]
            print(
                f"| {condition} | " + " | ".join(cells) + f" | {np.mean(template) if template else 0:.2f} |"
            )

    if picture:
        title = "What a context does to the teacher"
        forest(Path(picture), title, "probability of the right choice, minus that without a context", entries)


COLUMNS = (
    "context",
    "accuracy",
    "minus none",
    "minus random",
    "p(right) minus none",
    "p(right) minus random",
    "entropy minus none",
    "ECE-15",
    "ECE-15 minus none",
    "overconfidence",
    "flipped",
    "options' mass",
    "same template",
)


def _cells(condition: str, found: Mapping[str, Mapping[str, Values]]) -> list[str]:
    """The columns from accuracy to overconfidence."""
    own = found[condition]

    def minus(other: str, what: str) -> str:
        if other not in found or other == condition:
            return ""
        return show(mean_interval(own[what] - found[other][what]), sign=True)

    return [
        f"{own['accuracy'].mean():.3f}",
        minus("none", "accuracy"),
        minus("random", "accuracy"),
        minus("none", "p_right"),
        minus("random", "p_right"),
        minus("none", "entropy"),
        f"{float(ece(own['confidence'], own['accuracy'])):.3f}",
        "" if condition == "none" else show(ece_difference(found["none"], own), sign=True),
        f"{(own['confidence'] - own['accuracy']).mean():+.3f}",
    ]


def ece_difference(before: Mapping[str, Values], after: Mapping[str, Values]) -> Interval:
    """ECE-15 after minus before, paired over questions."""

    def difference(weights: Values) -> dict[str, Values]:
        ends = [ece(one["confidence"], one["accuracy"], weights=weights) for one in (before, after)]
        return {"d": ends[1] - ends[0]}

    draws = bootstrap_draws(difference, num_items=len(before["accuracy"]), num_resamples=2000, seed=0)
    value = float(ece(after["confidence"], after["accuracy"])) - float(
        ece(before["confidence"], before["accuracy"])
    )
    return bootstrap_interval(value, draws["d"])


def main() -> None:
    """Measure or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    add_measure_options(one)
    one.add_argument("--format", default="letter", choices=["letter", "free"])
    one.add_argument("--pool", type=int, default=250)
    one.add_argument("--queries", type=int, default=120)
    one.add_argument("--demonstrations", type=int, default=2)
    one.add_argument("--other", help="question file of another domain, for the condition `other`")
    one.add_argument("--conditions", default=",".join(CONDITIONS))
    many = commands.add_parser("report")
    many.add_argument("folders", nargs="+")
    many.add_argument("--picture")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report(arguments.folders, arguments.picture)
        return
    conditions = [name for name in arguments.conditions.split(",") if name != "other" or arguments.other]
    if unknown := set(conditions) - set(CONDITIONS):
        parser.error(f"unknown conditions {', '.join(sorted(unknown))}; there are {', '.join(CONDITIONS)}")
    keep_settings(Path(arguments.output), vars(arguments), free=("conditions", "output"), later=("other",))
    study = Study(arguments)
    for condition in conditions:
        study.measure(condition)


if __name__ == "__main__":
    main()
