"""The cells of one row -> the text of a question and its choices, alike for questions and for answers."""

from typing import Any

from neuron_opsd.tables.choices import Choices, read_choices
from neuron_opsd.tables.columns import Columns, own_marks
from neuron_opsd.tables.marked import disordered_marks, marked_lines, marks_within
from neuron_opsd.tables.rows import BadRowError, show


def question_text(values: dict[str, Any], columns: Columns) -> str:
    """The question, after its passage where there is one.

    Raises:
        BadRowError: either is no text, or the question is blank.
    """
    text = check_text(values.get(columns.question or ""), str(columns.question))
    if columns.choices == (columns.question,):
        text = marked_lines(text).lead.strip()
    passage = _passage(values.get(columns.passage), columns.passage) if columns.passage else ""
    return f"{passage}\n\n{text}" if passage else text


def choices_of(values: dict[str, Any], columns: Columns) -> Choices:
    """The one column of all choices, which may be the question's own text, or the columns of one choice each."""
    if columns.question is not None and columns.choices == (columns.question,):
        return _choices_within(check_text(values.get(columns.question), columns.question), columns.question)
    if len(columns.choices) != 1:
        cells = [values.get(name) for name in columns.choices]
        marks = own_marks(columns.choices)
        return read_choices(dict(zip(marks, cells, strict=True)) if marks else cells)
    return read_choices(values.get(columns.choices[0]))


def _choices_within(text: str, name: str) -> Choices:
    """The choices that end a question's own text, one a line. A text without any is free-form.

    Raises:
        BadRowError: it lists choices, and not so.
    """
    found = marked_lines(text)
    if found.texts:
        return read_choices(dict(zip(found.marks, found.texts, strict=True)))
    if marks := disordered_marks(text):
        raise BadRowError(
            f"{name} has lines that begin with {', '.join(marks)}. Choices must run from the first letter, without "
            "a gap."
        )
    if marks := marks_within(text):
        raise BadRowError(
            f"{name} lists its choices {', '.join(marks)} within a line, where they cannot be told from other text. "
            "Begin a line with each."
        )
    return read_choices(None)


def check_text(value: Any, name: str) -> str:
    """A cell that must hold text.

    Raises:
        BadRowError: it does not.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRowError(f"{name} is empty. Write its text, or leave out the row.")
    if not isinstance(value, str):
        raise BadRowError(f"{name} is {show(value)} ({type(value).__name__}). It must be a string.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRowError(f"{name} holds half a surrogate pair (such as \\ud83d), which is not a character.")
    return value


def _passage(value: Any, name: str) -> str:
    """What is read before the question: a text, or a list of them."""
    if value is None or value == []:
        return ""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise BadRowError(
            f"{name} is {show(value)} ({type(value).__name__}). It must be text. Not to read it before the question: "
            "questions.fields={passage: null}"
        )
    return "\n".join(check_text(part, name) for part in parts if part.strip())
