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
from neuron_opsd.records import Question
from neuron_opsd.tables.cells import check_text, choices_of, question_text
from neuron_opsd.tables.choices import Choices, read_choices
from neuron_opsd.tables.columns import (
    Columns,
    Given,
    absent_names,
    find_columns,
    is_answer_column,
    is_needed,
    look_like_choices,
    right_apart,
    wrong_choices,
)
from neuron_opsd.tables.marked import is_numbered, marked_lines, marks_within
from neuron_opsd.tables.read import read_table, stem_of
from neuron_opsd.tables.rows import (
    NUM_SHOWN,
    BadRowError,
    LeftOut,
    Row,
    Table,
    check_bad_rows,
    show,
)
from neuron_opsd.text.content import content_id
from neuron_opsd.text.fixed_order import has_fixed_order

log = logging.getLogger(__name__)

NUM_LOOKED_AT = 200  # rows whose cells tell whether a column that is not read may hold choices


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
    _check_readable(table, columns, fields)
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


def _check_readable(table: Table, columns: Columns, fields: Given) -> None:
    """Refuse a file without a question, or whose choices would go unread.

    Raises:
        DataError: with the setting that would read it.
    """
    path, names = table.path, [name for name in table.columns if not is_answer_column(name)]
    if columns.question is None:
        if not names and all(row.problem for row in table.rows):
            check_bad_rows(
                path, [LeftOut(r.where, r.problem) for r in table.rows], len(table.rows), max_fraction=0
            )
        guess = _longest_column(table, names)
        hint = f" If it is {guess!r}: questions.fields={{question: {_quoted(guess)}}}" if guess else ""
        raise DataError(
            f"{path} has no column for the question. It has: {_names(names) or 'no column that may be read'}.{hint}"
        )
    if columns.choices:
        _check_merged_header(table, columns)
    if columns.choices or ("choices" in fields and fields["choices"] is None):
        return
    if missing := fields.get("choices"):
        raise DataError(
            f"questions.fields.choices is {missing}, but {path} has only: {_names(table.columns)}."
        )
    unread = [name for name in table.columns if name not in columns.read]
    if wrong := wrong_choices(unread):
        raise right_apart(path, wrong)
    found = look_like_choices(unread)
    single = next((name for name in names if name not in columns.read and _holds_choices(table, name)), None)
    if not found and single is None:
        _refuse_choices_within(table, columns.question)
        return
    seem = _names(found) if found else str(single)
    value = f"[{', '.join(map(_quoted, found))}]" if found else _quoted(str(single))
    raise DataError(
        f"{path}: {seem} look like choices, and are not read. To read them: questions.fields={{choices: {value}}}. For "
        "free-form questions: questions.fields={choices: null}"
    )


def _check_merged_header(table: Table, columns: Columns) -> None:
    """Refuse a column of choices that holds one choice a row, beside columns without a name: its header is merged.

    Raises:
        DataError: with the setting that reads these columns, too.
    """
    name = columns.choices[0]
    is_single = len(columns.choices) == 1 and name != columns.question and name in table.columns
    if not is_single or _may_hold_choices(table, name):
        return
    begin = table.columns.index(name) + 1
    nameless = [other == f"column {k}" for k, other in enumerate(table.columns[begin:], begin + 1)]
    beside = table.columns[begin : begin + [*nameless, False].index(False)]
    if beside:
        cell = next(iter(_cells_looked_at(table, name)), None)
        every = ", ".join(map(_quoted, [name, *beside]))
        raise DataError(
            f"{table.path}: {name} holds no list of choices (it is {show(cell)}), and {_names(beside)} beside it have "
            "no name, as where a header's cells are merged. If each of these columns holds one choice: "
            f"questions.fields={{choices: [{every}]}}. Otherwise name the columns choice_a, choice_b, ... and answer"
        )


def _may_hold_choices(table: Table, name: str) -> bool:
    """Whether a cell of this column can be read as choices, or none holds anything."""
    cells = _cells_looked_at(table, name)
    return not cells or any(map(_is_readable, cells))


def _is_readable(cell: Any) -> bool:
    try:
        read_choices(cell)
    except BadRowError:
        return False
    return True


def _refuse_choices_within(table: Table, name: str) -> None:
    """Refuse a file whose questions list their choices in their own text, where nobody says that they are free-form.

    Raises:
        DataError: more than half of the texts do so. Says how to have them read.
    """
    cells = _cells_looked_at(table, name)
    texts = [cell for cell in cells if isinstance(cell, str)]
    lists = [found for text in texts if (found := marked_lines(text)).texts]
    inline = [marks for text in texts if not marked_lines(text).texts and (marks := marks_within(text))]
    if 2 * (len(lists) + len(inline)) <= len(cells):
        return
    quoted = _quoted(name)
    setting = f"questions.fields={{question: {quoted}, choices: {quoted}}}"
    if len(lists) >= len(inline):
        marks, how = lists[0].marks, f"To read them: {setting}"
    else:
        marks = inline[0]
        how = (
            "They stand within a line, where they cannot be told from other text. Begin a line with each, and set "
            f"{setting}. Or give each choice a column: choice_a, choice_b"
        )
    raise DataError(
        f"{table.path}: the texts of {name} list choices ({', '.join(marks[:4])}), which would not be read as choices. "
        f"{how}. For free-form questions: questions.fields={{choices: null}}"
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


def _names(names: Sequence[str]) -> str:
    """Names of columns as a message shows them: printable."""
    return ", ".join(name.encode(errors="backslashreplace").decode() for name in names)


def _quoted(name: str) -> str:
    return name if name.replace("_", "").isalnum() else f"'{name}'"


def _longest_column(table: Table, names: Sequence[str]) -> str | None:
    """The column with the longest texts: most likely the question."""
    rows = table.rows[:NUM_LOOKED_AT]
    lengths = {
        name: sum(len(cell) for row in rows if isinstance(cell := row.values.get(name), str))
        for name in names
    }
    return max(lengths, key=lambda name: lengths[name]) if any(lengths.values()) else None


def _cells_looked_at(table: Table, name: str) -> list[Any]:
    return [cell for row in table.rows[:NUM_LOOKED_AT] if (cell := row.values.get(name)) is not None]


def _holds_choices(table: Table, name: str) -> bool:
    """Whether most cells of a column are lists of texts, or lines that begin with A., B., ..."""
    cells = _cells_looked_at(table, name)
    return 2 * sum(map(_is_list_of_choices, cells)) > len(cells)


def _is_list_of_choices(cell: Any) -> bool:
    if isinstance(cell, str) and not cell.lstrip().startswith(("[", "{")):
        found = marked_lines(cell)
        # Numbered lines in a column of unknown name are more often steps or notes.
        return bool(found.texts) and not found.lead.strip() and not is_numbered(found)
    return _is_readable(cell) and len(read_choices(cell).texts) > 1


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
            _names(file.answers),
        )
    for name, part in file.absent.items():
        log.warning("%s: has no column %r, which questions.fields names for the %s", file.path, name, part)
    if file.unread:
        log.warning("%s: ignored the columns %s", file.path, _names(file.unread))
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
        "choices": _names(columns.choices),
        "question_id": columns.question_id,
        "domain": columns.domain,
        "system": columns.system,
    }
    return ", ".join(f"{field} from {_names([name])}" for field, name in single.items() if name)


__all__ = ["NUM_SHOWN", "QuestionFile", "describe_columns", "place_of", "read_file", "read_questions"]
