"""Gold answers: the only code that opens them. Files + questions -> question id -> canonical gold answer.

A file, of any format that questions have, holds an answer (`answer`, `answerKey`, `cop`, ...) and either an id or the
question's own fields, so that a labelled question file can be its own answer file. It may cover all, some or none of
the questions. What an answer may say is in `answer_forms.py`. Letters mean the choices as the file orders them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuron_opsd.config import MAX_BAD_FRACTION
from neuron_opsd.errors import DataError
from neuron_opsd.evaluation.answer_forms import (
    LETTERS,
    AnswerBase,
    Offered,
    UnclearIndexError,
    choice_named,
    plain_answer,
)
from neuron_opsd.records import Question
from neuron_opsd.tables.cells import choices_of, question_text
from neuron_opsd.tables.columns import Columns, Given, find_columns, plain
from neuron_opsd.tables.read import read_table
from neuron_opsd.tables.rows import BadRowError, LeftOut, Row, Table, check_bad_rows
from neuron_opsd.text.answers import answers_match, normalise_answer
from neuron_opsd.text.content import content_id, normalise
from neuron_opsd.text.expressions import expression, looks_like_expression

logger = logging.getLogger(__name__)

# The first of these that a file has, and fills. Letters and texts before numbers.
ANSWER_NAMES = (
    *("answer", "answers", "answerkey", "correctanswer", "rightanswer", "correct", "correctoption", "gold"),
    *("goldanswer", "label", "target", "cop", "answeridx", "answerindex", "answerid", "correctindex", "key"),
)


@dataclass(slots=True)
class AnswerKey:
    """The gold answers that files give to some questions, and what became of the other rows."""

    answers: dict[str, str] = field(default_factory=dict)  # question id -> letter of the choices, or text
    num_rows: int = 0
    num_other: int = 0  # rows about other questions
    num_blank: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


def load_answer_key(
    paths: Sequence[str | Path],
    questions: Sequence[Question],
    *,
    fields: Given | None = None,
    answer_base: AnswerBase = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> dict[str, str]:
    """Read gold answers for these questions: `read_answers`, told in the log.

    Returns:
        question_id -> letter of the original choice order, or normalised text for a free-form question.
    """
    key = read_answers(
        paths, questions, fields=fields, answer_base=answer_base, max_bad_fraction=max_bad_fraction
    )
    if key.num_other:
        logger.warning("Left out %d answers to questions that are not evaluated here.", key.num_other)
    if key.num_blank:
        logger.warning("%d rows have no answer. Their questions are treated as unanswered.", key.num_blank)
    logger.info("Gold answers for %d of %d questions.", len(key.answers), len(questions))
    return key.answers


def read_answers(
    paths: Sequence[str | Path],
    questions: Sequence[Question],
    *,
    fields: Given | None = None,
    answer_base: AnswerBase = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> AnswerKey:
    """Read gold answers for these questions.

    Args:
        paths: Answer files or data sets. None gives an empty key.
        questions: The questions to be scored. Answers to other questions are counted and left out.
        fields: Names of columns by field, as `questions.fields`.
        answer_base: Where numbers that name a choice count from, 0 or 1, or `text` where numbers are choices' texts.
            None: a number that may be either is refused.
        max_bad_fraction: Of the rows of a file that may be left out because they cannot be read.

    Raises:
        DataError: an unreadable file, or too many rows that are: two answers to one question, a letter beyond the
            choices, text that is no choice, or a number that could count from 0 or from 1.
    """
    known = _Known(questions)
    key, given_at = AnswerKey(), dict[str, str]()
    for path in paths:
        table = read_table(str(path))
        columns = find_columns(table.columns, fields or {}, where=str(path))
        column = _answer_column(table, columns, fields or {})
        left_out, unclear = list[LeftOut](), set[int]()
        for row in table.rows:
            try:
                if row.problem:
                    raise BadRowError(row.problem)
                question = known.find(row, columns)
                if question is None:
                    key.num_other += 1
                elif is_blank(row.values.get(column)):
                    key.num_blank += 1
                else:
                    answer = _canonical(row, column, columns, question, table.is_typed, answer_base)
                    _add(key.answers, given_at, question, answer, row.where)
            except BadRowError as error:
                left_out.append(LeftOut(row.where, str(error)))
                if isinstance(error, UnclearIndexError):
                    unclear.add(error.number)
        key.num_rows += len(table.rows)
        key.left_out += left_out
        hint = _base_hint(unclear) if unclear else ""
        check_bad_rows(str(path), left_out, len(table.rows), max_fraction=max_bad_fraction, hint=hint)
    return key


def _base_hint(numbers: set[int]) -> str:
    seen = " A 0 is among them, so they count from 0." if 0 in numbers else ""
    ways = "questions.answer_base=0 or questions.answer_base=1"
    texts = "If they are the choices' own texts: questions.answer_base=text."
    return f" Write letters, or say where the numbers count from: {ways}.{seen} {texts}"


def _answer_column(table: Table, columns: Columns, fields: Given) -> str:
    given = fields.get("answer")
    names = [given] if isinstance(given, str) else ANSWER_NAMES
    candidates = [name for known in names for name in table.columns if plain(name) == plain(known)]
    if not candidates and given:
        candidates = [name for known in ANSWER_NAMES for name in table.columns if plain(name) == plain(known)]
    if isinstance(given, str) and candidates and columns.read.issuperset(candidates):
        raise DataError(
            f"questions.fields.answer is {given!r}, and {table.path} has that column read as part of the question or "
            f"its choices already. Name a column that holds the answer alone. It has: {_names(table)}."
        )
    candidates = [name for name in candidates if name not in columns.read]
    filled = [name for name in candidates if any(not is_blank(row.values.get(name)) for row in table.rows)]
    if found := filled or candidates:
        return found[0]
    problems = [LeftOut(row.where, row.problem) for row in table.rows if row.problem]
    if len(problems) == len(table.rows):
        check_bad_rows(table.path, problems, len(problems), max_fraction=0)
    if isinstance(given, str):
        raise DataError(
            f"questions.fields.answer is {given!r}, but {table.path} has no such column, nor another for the answer. "
            f"It has: {_names(table)}."
        )
    raise DataError(
        f"{table.path} has no column for the answer. It has: {_names(table)}. If one of them is: "
        "questions.fields={answer: NAME}"
    )


def _names(table: Table) -> str:
    return ", ".join(map(repr, table.columns)) or "nothing"


class _Known:
    """The questions that answers are wanted for, found by id, by content, or by a text that only one of them has."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_id = {question.question_id: question for question in questions}
        self._by_content = {
            content_id(question.question, question.choices): question for question in questions
        }
        self._by_text: dict[str, list[Question]] = {}
        for question in questions:
            self._by_text.setdefault(normalise(question.question), []).append(question)

    def find(self, row: Row, columns: Columns) -> Question | None:
        """The question that a row answers. None where it is not among these."""
        value = row.values.get(columns.question_id) if columns.question_id else None
        if not is_blank(value) and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise BadRowError(
                f"question_id is {value!r} ({type(value).__name__}). Write one id, as text or a number."
            )
        named = None if is_blank(value) else self._by_id.get(plain_answer(value))
        if columns.question is None or is_blank(row.values.get(columns.question)):
            if is_blank(value):
                raise BadRowError("has neither an id nor a question. One of them must say what is answered.")
            return named
        text = question_text(row.values, columns)
        if named is not None and normalise(named.question) == normalise(text):
            return named
        choices = choices_of(row.values, columns)
        same_text = self._by_text.get(normalise(text), [])
        found = self._by_content.get(content_id(text, choices.texts))
        if found is None and not choices.texts and len(same_text) == 1:
            found = same_text[0]
        if found is None and named is not None:
            raise BadRowError(
                f"has the id of another question, {named.question_id!r}. Remove the ids here, or the questions."
            )
        return found


def _canonical(
    row: Row, column: str, columns: Columns, question: Question, is_typed: bool, answer_base: AnswerBase
) -> str:
    """The answer of one row, as a letter of the question's choices or as normalised text."""
    value = row.values[column]
    text = plain_answer(value)
    if not question.choices:
        return (expression(text) if looks_like_expression(text) else None) or normalise_answer(text)
    choices = choices_of(row.values, columns)
    offered = Offered.of_row(choices, question) if choices.texts else Offered.of_question(question)
    is_number = not is_typed or not isinstance(value, str)
    index = choice_named(text, offered, is_number=is_number, answer_base=answer_base)
    return LETTERS[question.choices.index(offered.texts[index])]


def _add(
    answers: dict[str, str], given_at: dict[str, str], question: Question, answer: str, where: str
) -> None:
    """Keep an answer. Of two that differ keep neither."""
    first = given_at.setdefault(question.question_id, where)
    known = answers.get(question.question_id)
    if first == where:
        answers[question.question_id] = answer
    elif known != answer and not (known and not question.choices and answers_match(known, answer)):
        answers.pop(question.question_id, None)
        raise BadRowError(
            f"gives question '{question.question_id}' the answer '{answer}', but {first} another. Keep one of them. "
            "Neither is used."
        )


def is_blank(value: Any) -> bool:
    """Whether a cell gives no answer. NaN is blank too."""
    return value is None or value != value or value == [] or (isinstance(value, str) and not value.strip())
