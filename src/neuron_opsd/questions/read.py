"""One file or data set of unlabelled questions -> `Question` records, each with its place.

`tables/columns.py` tells which column is which field, `tables/read.py` reads formats and encodings. Columns that
hold answers are dropped here, before any record exists, so that nothing later can read them. Of a Parquet file or a
data set they are not even loaded. `evaluation/answer_key.py` reads answers on its own.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from neuron_opsd.config import MAX_BAD_FRACTION
from neuron_opsd.errors import DataError
from neuron_opsd.questions.readable import check_readable, show_names
from neuron_opsd.records import Question
from neuron_opsd.tables.cells import check_text, choices_of, question_text
from neuron_opsd.tables.choices import Choices
from neuron_opsd.tables.columns import (
    Columns,
    Given,
    absent_names,
    find_columns,
    is_answer_column,
    is_needed,
)
from neuron_opsd.tables.marked import marked_lines, marks_within
from neuron_opsd.tables.read import read_table, stem_of
from neuron_opsd.tables.rows import (
    NUM_SHOWN,
    BadRowError,
    LeftOut,
    Row,
    Table,
    check_bad_rows,
)
from neuron_opsd.text.content import content_id
from neuron_opsd.text.fixed_order import has_fixed_order

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """What one file holds: its questions in its order, where each stands, and what was left out."""

    path: str
    columns: Columns
    unread: tuple[str, ...]
    answers: tuple[str, ...]  # columns that look like answers, dropped unread
    num_rows: int
    # A column that `questions.fields` names and the file lacks -> the field it was for.
    absent: dict[str, str]
    questions: list[Question] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    changes: Counter[str] = field(
        default_factory=Counter
    )  # what was done to choices -> in how many questions


def read_questions(
    path: str, *, fields: Given | None = None, max_bad_fraction: float = MAX_BAD_FRACTION
) -> list[Question]:
    """Read and check every question of one file or data set, in its order, duplicate questions included.

    Args:
        path: The file, or the name of a data set.
        fields: Names of columns by field, as `questions.fields`.
        max_bad_fraction: Of the rows that may be left out because they cannot be read.

    Raises:
        DataError: with file and line, what is wrong, and what is allowed.
    """
    return read_file(path, fields=fields, max_bad_fraction=max_bad_fraction).questions


def read_file(
    path: str, *, fields: Given | None = None, max_bad_fraction: float = MAX_BAD_FRACTION
) -> QuestionFile:
    """Like `read_questions`, with places, columns and what was left out."""
    fields = fields or {}
    table = read_table(
        path, is_wanted=lambda name: not is_answer_column(name) or bool(is_needed([name], fields))
    )
    columns = find_columns(table.columns, fields, where=path)
    check_readable(table, columns, fields)
    file = _new_file(table, columns, fields)
    by_id: dict[str, tuple[str, str]] = {}
    for row in table.rows:
        try:
            question = _make_question(
                row, columns, default_domain=stem_of(path).removesuffix(".questions"), file=file
            )
            _check_id_is_new(question, row.where, by_id)
        except BadRowError as error:
            file.left_out.append(LeftOut(row.where, str(error)))
        else:
            file.questions.append(question)
            file.places.append(row.where)
    check_bad_rows(path, file.left_out, len(table.rows), max_fraction=max_bad_fraction)
    _check_choices_within(file)
    _give_notice(file)
    return file


def place_of(question: Question, paths: Sequence[str], fields: Given) -> str:
    """Where a question stands, for a message: its file and line, found by reading the files again."""
    for path in paths:
        file = read_file(path, fields=fields, max_bad_fraction=1.0)
        for other, where in zip(file.questions, file.places, strict=True):
            if (other.question_id, other.question) == (question.question_id, question.question):
                return where
    return f"Question {question.question_id}"


def _new_file(table: Table, columns: Columns, fields: Given) -> QuestionFile:
    unread = [name for name in table.columns if name not in columns.read]
    answers = tuple(sorted(name for name in unread if is_answer_column(name)))
    others = tuple(sorted(set(unread).difference(answers)))
    return QuestionFile(
        table.path, columns, others, answers, len(table.rows), absent_names(table.columns, fields)
    )


def _check_choices_within(file: QuestionFile) -> None:
    """Refuse a setting that takes the choices from the questions' own texts, where none of them lists any.

    Raises:
        DataError: all questions would be free-form.
    """
    within = file.columns.choices == (file.columns.question,)
    if within and file.questions and not any(question.choices for question in file.questions):
        raise DataError(
            f"questions.fields.choices is {file.columns.question}, but none of the {len(file.questions):,} texts of "
            f"{file.path} has lines that begin with A., a) or 1., in order. Begin a line with each choice. For "
            "free-form questions: questions.fields={choices: null}"
        )


def _make_question(row: Row, columns: Columns, *, default_domain: str, file: QuestionFile) -> Question:
    if row.problem:
        raise BadRowError(row.problem)
    values = row.values
    question, choices = question_text(values, columns), choices_of(values, columns)
    _count_changes(choices, question, file)
    domain, system = (_optional_text(values, name) for name in (columns.domain, columns.system))
    return Question(
        question_id=_check_id(values, columns.question_id) or content_id(question, choices.texts),
        domain=domain or default_domain,
        question=question,
        choices=choices.texts,
        letters=choices.marks if choices.has_own_marks else (),
        system=system,
    )


def _optional_text(values: dict[str, Any], name: str | None) -> str | None:
    return None if name is None or values.get(name) is None else check_text(values[name], name)


def _check_id(values: dict[str, Any], name: str | None) -> str | None:
    value = None if name is None else values.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value is None else check_text(value, str(name))


def _check_id_is_new(question: Question, where: str, by_id: dict[str, tuple[str, str]]) -> None:
    content = content_id(question.question, question.choices)
    known, place = by_id.setdefault(question.question_id, (content, where))
    if known != content:
        raise BadRowError(
            f"question_id {question.question_id!r} already names another question, at {place}. Make ids unique, or "
            "do without (then the content makes them): questions.fields={question_id: null}"
        )


def _count_changes(choices: Choices, question: str, file: QuestionFile) -> None:
    file.changes["lost the letters of their choices (A., B., ...), which prompts give them anew"] += (
        choices.lost_letters
    )
    file.changes["lost blank choices (N/A)"] += bool(choices.num_padding)
    file.changes["lost a choice that they repeat"] += bool(choices.num_repeated)
    file.changes["keep their order, because a choice points at others (All of the above)"] += has_fixed_order(
        choices.texts
    )
    file.changes["have no choices and are free-form"] += not choices.texts
    file.changes[
        "are free-form, but list choices (A., B., ...) in their text. Give these a column of their own"
    ] += not choices.texts and bool(marked_lines(question).texts or marks_within(question))


def _give_notice(file: QuestionFile) -> None:
    """What is not read, and what was done to the choices."""
    if file.answers:
        log.warning(
            "%s: dropped the answer columns %s. Only evaluation may read answers (--answers)",
            file.path,
            show_names(file.answers),
        )
    for name, part in file.absent.items():
        log.warning("%s: has no column %r, which questions.fields names for the %s", file.path, name, part)
    if file.unread:
        log.warning("%s: ignored the columns %s", file.path, show_names(file.unread))
    renamed = {
        name
        for name in file.columns.read
        if name not in ("question", "choices", "question_id", "domain", "system")
    }
    if renamed:
        log.info("%s: %s", file.path, describe_columns(file.columns))
    if file.changes["have no choices and are free-form"] == len(file.questions):
        del file.changes["have no choices and are free-form"]
    for what, count in file.changes.items():
        if count:
            log.info("%s: %d of %d questions %s", file.path, count, len(file.questions), what)


def describe_columns(columns: Columns) -> str:
    """Which column is read as which field."""
    single = {
        "question": columns.question,
        "passage before it": columns.passage,
        "choices": show_names(columns.choices),
        "question_id": columns.question_id,
        "domain": columns.domain,
        "system": columns.system,
    }
    return ", ".join(f"{field} from {show_names([name])}" for field, name in single.items() if name)


__all__ = ["NUM_SHOWN", "QuestionFile", "describe_columns", "place_of", "read_file", "read_questions"]
