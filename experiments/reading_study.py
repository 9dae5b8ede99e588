"""Does the answer reader read a real model's replies as a person does? See docs/answers.md.

    python experiments/reading_study.py sample --model MODEL --label NAME --sets FOLDER --output ROWS.jsonl
    python experiments/reading_study.py report ROWS.jsonl ...

`sample` asks the frozen model questions of the sets that scripts/prepare_demo_questions.py writes, in four answer
formats, and keeps each reply with the choices as they were shown. A person then writes into each row,
as `person`, the readings that are right (letters of these choices; null for no answer, or several), before looking at
what the reader says. `report` prints how often the reader of this version, and the one that was there when the replies
were sampled, agree with the person.
"""

# ruff: noqa: T201
import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies import Row, groups, read_rows, resumable

from neuron_opsd.config import ModelSettings, PromptSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_model
from neuron_opsd.questions.load import read_questions
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Question
from neuron_opsd.rollouts.sample import sample_rollouts
from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.reading import read_answer

WANTED = "as wanted"


@dataclass(frozen=True)
class Asked:
    """How many questions of which sets are asked in one answer format, and how long a reply may be."""

    sets: dict[str, int]
    max_new_tokens: int


ASKED = {  # some of the reasoned replies are cut, as they are in every run
    "letter": Asked({"openbookqa": 14, "commonsenseqa": 14, "siqa": 12, "mmlu_clinical": 10}, 24),
    "choice_text": Asked({"openbookqa": 12, "commonsenseqa": 12, "siqa": 12, "piqa": 9}, 32),
    "free": Asked({"privacy_yes_no": 10, "boolq_yes_no": 12, "film_reviews": 13}, 32),
    "reasoned": Asked(
        {
            "openbookqa": 14,
            "commonsenseqa": 14,
            "siqa": 12,
            "mmlu_clinical": 12,
            "boolq": 10,
            "asdiv": 10,
        },
        160,
    ),
}


def sample(arguments: argparse.Namespace) -> None:
    """Write one row a reply."""
    model, tokenizer = load_model(ModelSettings(name=arguments.model, dtype="bfloat16"))
    engine = HFEngine(model, tokenizer, batch_size=arguments.batch_size)
    encoder = ChatEncoder(tokenizer)
    for answer_format, asked in ASKED.items():
        questions = [
            q
            for name, count in asked.sets.items()
            for q in _questions(arguments, name, int(count * arguments.share))
        ]

        def make(batch: list[Question], answer_format=answer_format, asked=asked) -> Iterator[Row]:
            rollouts = sample_rollouts(
                batch,
                engine,
                encoder,
                prompts=PromptSettings.model_validate({"answer_format": answer_format}),
                sampling=Sampling(temperature=0.8, max_new_tokens=asked.max_new_tokens),
                num_rollouts=1,
                shuffle_choices=True,
                seed=arguments.seed,
                stage="reading",
            )
            for question, rollout in zip(batch, rollouts, strict=True):
                order, answer = rollout.choice_order, rollout.answer
                if answer and order:
                    answer = LETTERS[order.index(LETTERS.index(answer))]  # as shown
                yield {
                    "name": f"{arguments.label} {answer_format} {question.question_id}",
                    "model": arguments.label,
                    "format": answer_format,
                    "choices": [question.choices[i] for i in order],
                    "finish_reason": rollout.finish_reason,
                    "reply": rollout.reply,
                    "read": answer,
                }

        resumable(
            Path(arguments.output),
            questions,
            lambda q, f=answer_format: f"{arguments.label} {f} {q.question_id}",
            make,
            batch=arguments.batch_size,
        )


def _questions(arguments: argparse.Namespace, name: str, count: int) -> list[Question]:
    questions = read_questions(str(Path(arguments.sets) / f"{name}.questions.jsonl"))
    return sorted(questions, key=lambda q: derive_seed(arguments.seed, "reading", q.question_id))[:count]


def report(paths: Sequence[str]) -> None:
    """Print the confusion table, and each reply that the reader of this version reads otherwise than the person."""
    rows = [row for path in paths for row in read_rows(Path(path)) if "person" in row]
    readings = [
        read_answer(
            row["reply"],
            choices=row["choices"],
            answer_format=row["format"],
            is_finished=row["finish_reason"] == "stop",
        )
        for row in rows
    ]
    print(
        "| model | format | replies | reader before: as wanted / unread / wrong | reader now | other readings |"
    )
    print("|---|---|---|---|---|---|")
    judged = [
        {
            "model": row["model"],
            "format": row["format"],
            "before": judge(row["read"], row["person"]),
            "now": judge(reading.answer, row["person"]),
            "is_other": reading.answer != row["read"],
        }
        for row, reading in zip(rows, readings, strict=True)
    ]
    for model, own in groups(judged, "model"):
        for answer_format, part in groups(own, "format"):
            print_counts(model, answer_format, part)
    print_counts("all", "all", judged)
    for row, reading in zip(rows, readings, strict=True):
        verdict = judge(reading.answer, row["person"])
        if verdict != WANTED:
            print(f"- {verdict}: {row['name']}: a person reads {row['person']}, the reader {reading}")


def judge(answer: str | None, person: Sequence[str | None]) -> str:
    """What became of one reply; a person may accept several readings of a reply that contradicts itself."""
    if answer in person:
        return WANTED
    return "unread" if answer is None else "wrong"


def print_counts(model: str, answer_format: str, rows: Sequence[Row]) -> None:
    """One line of the table."""
    cells = []
    for reader in ("before", "now"):
        counts = Counter(row[reader] for row in rows)
        cells.append(" / ".join(str(counts[verdict]) for verdict in (WANTED, "unread", "wrong")))
    num_other = sum(row["is_other"] for row in rows)
    print(f"| {model} | {answer_format} | {len(rows)} | {cells[0]} | {cells[1]} | {num_other} |")


def main() -> None:
    """Sample, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sampling = commands.add_parser("sample")
    sampling.add_argument("--model", required=True)
    sampling.add_argument("--label", required=True)
    sampling.add_argument("--sets", required=True)
    sampling.add_argument("--output", required=True)
    sampling.add_argument("--batch-size", type=int, default=12)
    sampling.add_argument(
        "--share", type=float, default=1, help="of the questions; a slow model may answer fewer"
    )
    sampling.add_argument("--seed", type=int, default=0)
    commands.add_parser("report").add_argument("rows", nargs="+")
    arguments = parser.parse_args()
    sample(arguments) if arguments.command == "sample" else report(arguments.rows)


if __name__ == "__main__":
    main()
