"""What a table would lose if it were read as its columns say: refused, with the setting that would read it.

A file without a column for the question, choices that would go unread, columns that tell the right choice.
"""

from collections.abc import Sequence
from typing import Any

from neuron_opsd.errors import DataError
from neuron_opsd.tables.choices import read_choices
from neuron_opsd.tables.columns import (
    Columns,
    Given,
    is_answer_column,
    look_like_choices,
    right_apart,
    wrong_choices,
)
from neuron_opsd.tables.marked import is_numbered, marked_lines, marks_within
from neuron_opsd.tables.rows import BadRowError, LeftOut, Table, check_bad_rows, show

NUM_LOOKED_AT = 200  # rows whose cells tell whether a column that is not read may hold choices


def check_readable(table: Table, columns: Columns, fields: Given) -> None:
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
            f"{path} has no column for the question. It has: {show_names(names) or 'no column that may be read'}.{hint}"
        )
    if columns.choices:
        _check_merged_header(table, columns)
    if columns.choices or ("choices" in fields and fields["choices"] is None):
        return
    if missing := fields.get("choices"):
        raise DataError(
            f"questions.fields.choices is {missing}, but {path} has only: {show_names(table.columns)}."
        )
    unread = [name for name in table.columns if name not in columns.read]
    if wrong := wrong_choices(unread):
        raise right_apart(path, wrong)
    found = look_like_choices(unread)
    single = next((name for name in names if name not in columns.read and _holds_choices(table, name)), None)
    if not found and single is None:
        _refuse_choices_within(table, columns.question)
        return
    seem = show_names(found) if found else str(single)
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
            f"{table.path}: {name} holds no list of choices (it is {show(cell)}), and {show_names(beside)} beside it "
            "have no name, as where a header's cells are merged. If each of these columns holds one choice: "
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


def show_names(names: Sequence[str]) -> str:
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
