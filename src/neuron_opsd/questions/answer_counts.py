"""Answer files read early, in a process of their own that hands back counts: a run never holds an answer.

The process is `evaluation/check_answers.py`. It ends before anything is sampled or trained.
"""

import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuron_opsd.config import QuestionSettings
from neuron_opsd.errors import DataError
from neuron_opsd.records import Question

log = logging.getLogger(__name__)

SHOWN = 500  # characters of a dead process's last line
FEW = 0.5  # of the test questions with an answer: fewer are worth a warning
MOST = 0.8  # of the answers to free-form questions: so many of one letter or digit name choices
MIN_ANSWERS = 5  # of fewer that share says nothing


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """What may be known of answers before evaluation. `balance` and `reasons` are for people alone."""

    num_rows: int
    num_questions: int
    num_test_questions: int
    num_other: int
    num_blank: int
    left_out: Sequence[str]
    # Free-form questions with an answer, and how many of these answers are one letter, or one digit.
    num_free_form: int = 0
    num_letters: int = 0
    num_digits: int = 0
    balance: dict[str, int] = dataclasses.field(default_factory=dict)
    reasons: Sequence[str] = ()


def count_answers(
    paths: Sequence[str],
    questions: Sequence[Question],
    settings: QuestionSettings,
    *,
    is_for_people: bool = False,
) -> AnswerCounts:
    """Have answer files read, and counted.

    Args:
        paths: The answer files.
        questions: Those that are to be scored.
        settings: How files are read.
        is_for_people: Also how often each letter is right, and why rows were left out: for `questions --check`.

    Raises:
        DataError: what evaluation would raise, where the message may quote the cells it is about. Or nearly all answers
            are letters, no question has choices, and no setting says that they have none.
    """
    counts = _count(paths, questions, settings, is_for_people=is_for_people)
    problem = letters_alone(counts, paths)
    is_said = "choices" in settings.fields and settings.fields["choices"] is None
    # Beside questions with choices the setting that says so would take theirs away: then it is a warning.
    is_all = not any(question.choices for question in questions)
    if problem and is_all and not is_said and counts.num_letters >= counts.num_digits:
        raise DataError(f"{problem} If they are free-form all the same: questions.fields={{choices: null}}")
    return counts


def letters_alone(counts: AnswerCounts, paths: Sequence[str]) -> str | None:
    """What is wrong where nearly all answers to free-form questions are one letter, or one digit, as of choices."""
    kind, number = max(("letter", counts.num_letters), ("digit", counts.num_digits), key=lambda pair: pair[1])
    if counts.num_free_form < MIN_ANSWERS or number < MOST * counts.num_free_form:
        return None
    return (
        f"{', '.join(map(str, paths))}: {number:,} of the {counts.num_free_form:,} answers to free-form questions are "
        f"one {kind} alone, as if it named a choice. These questions are read without choices. Check that "
        "their choices have a column that is read (questions.fields={choices: NAME})."
    )


def _count(
    paths: Sequence[str], questions: Sequence[Question], settings: QuestionSettings, *, is_for_people: bool
) -> AnswerCounts:
    asked = {
        "answers": list(paths),
        "questions": [dataclasses.asdict(question) for question in questions],
        "fields": settings.fields,
        "answer_base": settings.answer_base,
        "max_bad_fraction": settings.max_bad_fraction,
        "is_for_people": is_for_people,
    }
    request = json.dumps(asked)
    if not all(map(os.path.isfile, paths)):  # what else there is can change unseen
        return _count_apart(request, paths)
    stats = [os.stat(path) for path in paths]
    written = [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]
    key = (hashlib.sha256(request.encode()).hexdigest(), *written)
    if key not in _counted:
        _counted[key] = _count_apart(request, paths)
    return _counted[key]


# Each cell of a comparison asks the same of the same files.
_counted: dict[tuple[object, ...], AnswerCounts] = {}


def _count_apart(request: str, paths: Sequence[str]) -> AnswerCounts:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "neuron_opsd.evaluation.check_answers"],
        input=request,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout.splitlines()[-1])  # a library may have printed lines before
    except (IndexError, json.JSONDecodeError):
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise DataError(
            f"The process that reads {', '.join(map(str, paths))} ended with status {done.returncode}: "
            f"{said[0][-SHOWN:]}. Status -9 means that memory ran out: free some. "
            "Otherwise run `neuron-opsd env`, and fix what it finds."
        ) from None
    if "error" in found:
        raise DataError(found["error"])
    return AnswerCounts(**found)


def check_answers(
    paths: Sequence[str], questions: Sequence[Question], settings: QuestionSettings, *, name: str
) -> None:
    """Refuse answers that evaluation could not use, before any work. `name` is the setting that lists the files.

    Raises:
        DataError: a file that cannot be read, or none of its answers is to one of the questions.
    """
    if not paths:
        return
    counts = count_answers(paths, questions, settings)
    files = ", ".join(map(str, paths))
    if not counts.num_questions:
        raise DataError(
            f"{name}: none of the {counts.num_rows:,} rows of {files} answers one of the {len(questions):,} questions. "
            "Give rows the question_id of their question, or its text and choices. Or leave the file out."
        )
    num_test = sum(question.split == "test" for question in questions)
    log.info(
        "%s: answers to %d of %d test questions (%d rows, %d to other questions, %d left out)",
        name, counts.num_test_questions, num_test, counts.num_rows, counts.num_other, len(counts.left_out),
    )  # fmt: skip
    if counts.left_out:
        log.warning("%s: left out %d rows: %s", name, len(counts.left_out), ", ".join(counts.left_out[:10]))
    if problem := letters_alone(counts, paths):
        log.warning("%s: %s", name, problem)
    if counts.num_test_questions < FEW * num_test:
        log.warning(
            "%s: only %d of %d test questions have an answer. Accuracy will be of these alone",
            name, counts.num_test_questions, num_test,
        )  # fmt: skip
