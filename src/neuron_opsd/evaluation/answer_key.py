"""Gold answers: the only code that opens them. Files + questions -> question id -> canonical gold answer.

A file (JSONL, CSV, Parquet) has `answer` and either `question_id` or the question's own fields, so that a
labelled question file can be its own answer file. It may cover all, some or none of the questions. An answer
is a letter of the ORIGINAL choice order (A is the first), "B. its text", or the text of one choice; a bare
number that could be an index is refused, because 0-based and 1-based indices cannot be told apart.
"""

import csv
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_opsd.errors import DataError
from neuron_opsd.records import Question
from neuron_opsd.text.answers import LETTERS, answers_match, normalise_answer
from neuron_opsd.text.content import content_id, normalise
from neuron_opsd.text.expressions import expression, looks_like_expression

logger = logging.getLogger(__name__)

_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_LETTER_AND_TEXT = re.compile(r"\(?([A-Za-z])(?:[).:]|\s+-)\s*(.+)", re.DOTALL)
_INDEX = re.compile(r"\d{1,2}")
_CHOICE_COLUMN = re.compile(r"(?:choice|option)_([A-Za-z]|[1-9]\d?)|([A-Z])")  # as in a question file


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of an answer file; `where` is "file, line n" for messages."""

    where: str
    values: dict[str, Any]
    typed: bool  # False in CSV, where a number and its text look alike


def load_answer_key(paths: Sequence[str | Path], questions: Sequence[Question]) -> dict[str, str]:
    """Read gold answers for these questions.

    Args:
        paths: Answer files; none gives an empty key.
        questions: The questions to be scored. Answers to other questions are counted in the log and left out.

    Returns:
        question_id -> letter of the original choice order, or normalised text for a free-form question.

    Raises:
        DataError: unreadable file or line, two different answers to one question, a letter beyond the
            choices, text that is no choice, or a number that could be an index.
    """
    by_id = {question.question_id: question for question in questions}
    by_content = {content_id(question.question, question.choices): question for question in questions}
    key: dict[str, str] = {}
    given_at: dict[str, str] = {}
    for path in paths:
        num_other = num_blank = 0
        for row in _read_rows(Path(path)):
            question = _find_question(row, by_id, by_content)
            if question is None:
                num_other += 1
                continue
            if _is_blank(row.values["answer"]):
                num_blank += 1
                continue
            answer = canonical_answer(row, question)
            first = key.setdefault(question.question_id, answer)
            where = given_at.setdefault(question.question_id, row.where)
            if first != answer and not (not question.choices and answers_match(first, answer)):
                raise DataError(
                    f"{row.where}: question '{question.question_id}' has answer '{answer}', "
                    f"but {where} says '{first}'. Keep one of them."
                )
        _log_left_out(path, num_other, num_blank)
    logger.info("Gold answers for %d of %d questions.", len(key), len(by_id))
    return key


def canonical_answer(row: _Row, question: Question) -> str:
    """The answer of one row, as a letter of the question's choices or as normalised text."""
    value = row.values["answer"]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(
            f"{row.where}: answer is {value!r} ({type(value).__name__}). Write a letter or the answer's text."
        )
    text = str(value).strip()
    if not question.choices:
        return (expression(text) if looks_like_expression(text) else None) or normalise_answer(text)
    choices = _row_choices(row, question)
    index = _choice_index(text, choices, is_number=not isinstance(value, str) or not row.typed, row=row)
    return LETTERS[question.choices.index(choices[index]) if choices != question.choices else index]


def _choice_index(text: str, choices: tuple[str, ...], *, is_number: bool, row: _Row) -> int:
    letter, both = _LETTER.fullmatch(text), _LETTER_AND_TEXT.fullmatch(text)
    same_text = [i for i, choice in enumerate(choices) if choice.strip() == text]
    if _INDEX.fullmatch(text) and int(text) <= len(choices) and (is_number or not same_text):
        raise DataError(
            f"{row.where}: answer '{text}' could be an index counted from 0 or from 1"
            f"{', or the text of a choice' if same_text else ''}. Write the letter: A for the first choice."
        )
    if letter and same_text and LETTERS.index(letter[1].upper()) != same_text[0]:
        raise DataError(
            f"{row.where}: answer '{text}' is a letter and also the text of choice {LETTERS[same_text[0]]}. "
            "Write 'B. text of the choice'."
        )
    if letter and not same_text:
        return _checked_letter(letter[1], choices, row)
    found = same_text or _similar_texts(text, choices, has_letter=both is not None)
    if len(found) == 1:
        return found[0]
    if both and not found:
        return _letter_with_text(both[1], both[2], choices, row)
    problem = "is the text of several choices" if found else "is no letter and no choice's text"
    raise DataError(
        f"{row.where}: answer '{_shorten(text)}' {problem}. Write the letter: A to {_last_letter(choices)}."
    )


def _similar_texts(text: str, choices: tuple[str, ...], *, has_letter: bool) -> list[int]:
    """Choices with this text but for case, articles and punctuation; the "A." of "A. blue" is no article."""
    canonical = str.casefold if has_letter else normalise_answer
    return [i for i, choice in enumerate(choices) if canonical(choice.strip()) == canonical(text)]


def _checked_letter(letter: str, choices: tuple[str, ...], row: _Row) -> int:
    index = LETTERS.index(letter.upper())
    if index >= len(choices):
        raise DataError(
            f"{row.where}: answer '{letter}' lies beyond the {len(choices)} choices of its question; "
            f"allowed are A to {_last_letter(choices)}."
        )
    return index


def _letter_with_text(letter: str, text: str, choices: tuple[str, ...], row: _Row) -> int:
    index = _checked_letter(letter, choices, row)
    if normalise_answer(choices[index]) != normalise_answer(text):
        raise DataError(
            f"{row.where}: answer '{_shorten(f'{letter}. {text}')}' names "
            f"choice {letter.upper()}, whose text is '{_shorten(choices[index])}'. "
            "Write the letter alone, or the letter with its own text."
        )
    return index


def _row_choices(row: _Row, question: Question) -> tuple[str, ...]:
    """The choices as this file orders them: a letter in it means these, which may be another order."""
    choices = _parse_choices(row)
    if not choices:
        return question.choices
    if sorted(map(normalise, choices)) != sorted(map(normalise, question.choices)):
        raise DataError(
            f"{row.where}: its choices are not those of question '{question.question_id}', so its answer "
            "cannot be mapped. Remove the choices here, or use the file that the questions came from."
        )
    originals = {normalise(choice): choice for choice in question.choices}
    return tuple(originals[normalise(choice)] for choice in choices)


def _parse_choices(row: _Row) -> tuple[str, ...]:
    columns = {match[1] or match[2]: name for name in row.values if (match := _CHOICE_COLUMN.fullmatch(name))}
    spread = [
        row.values[columns[mark]] for mark in sorted(columns, key=lambda mark: (len(mark), mark.lower()))
    ]
    choices = row.values.get("choices") or [choice for choice in spread if not _is_blank(choice)]
    if isinstance(choices, str) and choices.strip():
        try:
            choices = json.loads(choices)
        except json.JSONDecodeError:
            raise DataError(f'{row.where}: choices is not a JSON list, e.g. ["yes", "no"].') from None
    if isinstance(choices, dict):  # {"text": [...], "label": [...]}, as in ARC on the hub
        choices = choices.get("text")
    if choices is None or isinstance(choices, str):
        return ()
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{row.where}: choices must be a list of texts, not {_shorten(repr(choices))}.")
    return tuple(choices)


def _find_question(row: _Row, by_id: dict[str, Question], by_content: dict[str, Question]) -> Question | None:
    value = row.values.get("question_id")
    if not _is_blank(value):
        return by_id.get(str(value))
    text = row.values.get("question")
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{row.where}: neither question_id nor question; one of them must say what is answered."
        )
    return by_content.get(content_id(text, _parse_choices(row)))


def _read_rows(path: Path) -> Iterator[_Row]:
    readers = {
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is not an answer file: its name must end in .jsonl, .csv or .parquet.")
    if not path.is_file():
        raise DataError(f"Answer file {path} does not exist. Check evaluation.answers, or leave it out.")
    for row in reader(path):
        if "answer" not in row.values:
            raise DataError(
                f"{row.where}: no field `answer`; found {', '.join(map(str, row.values)) or 'nothing'}."
            )
        yield row


def _read_jsonl(path: Path) -> Iterator[_Row]:
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(raw.decode("utf-8-sig"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(
                f"{where}: not valid JSON ({error}). Write one JSON object a line, in UTF-8."
            ) from None
        if not isinstance(values, dict):
            raise DataError(
                f"{where}: {type(values).__name__} instead of an object with question_id and answer."
            )
        yield _Row(where, values, typed=True)


def _read_csv(path: Path) -> Iterator[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for values in reader:
                where = f"{path}, line {reader.line_num}"
                if None in values or None in values.values():
                    raise DataError(
                        f"{where}: not as many fields as the header names. Quote fields with commas."
                    )
                yield _Row(where, values, typed=False)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not valid CSV in UTF-8 ({error}).") from None


def _read_parquet(path: Path) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # a damaged page is an OSError
        raise DataError(f"{path} is not a Parquet file ({str(error).splitlines()[0]}).") from None
    for number, values in enumerate(rows, start=1):
        yield _Row(f"{path}, row {number}", values, typed=True)


def _log_left_out(path: str | Path, num_other: int, num_blank: int) -> None:
    if num_other:
        logger.warning("%s: %d answers to questions that are not evaluated here; left out.", path, num_other)
    if num_blank:
        logger.warning("%s: %d rows without an answer; those questions count as unanswered.", path, num_blank)


def _last_letter(choices: tuple[str, ...]) -> str:
    return LETTERS[min(len(choices), len(LETTERS)) - 1]


def _is_blank(value: Any) -> bool:
    return (
        value is None or value != value or (isinstance(value, str) and not value.strip())
    )  # NaN is blank too


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
