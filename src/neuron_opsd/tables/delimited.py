"""CSV and TSV -> rows. The delimiter is told from the header. An empty cell is a missing value."""

import csv
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from neuron_opsd.errors import DataError
from neuron_opsd.tables.columns import names_a_question
from neuron_opsd.tables.rows import Row
from neuron_opsd.tables.text import read_text

logger = logging.getLogger(__name__)

MAX_TITLES = 20  # rows among which a header is looked for
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_delimited(path: str, file: Path) -> Iterator[Row]:
    """The rows of a CSV or TSV file with a header.

    Raises:
        DataError: a quotation that is not closed, or a header that names a column twice.
    """
    text = read_text(path, file)
    first_line = 1
    if text[:4].lower() == "sep=" and text[5:6] in "\r\n":  # Excel's own first line
        text, first_line = text.partition("\n")[2], 2
    is_tsv = ".tsv" in file.suffixes[-2:]
    delimiter = find_delimiter(text, default="\t" if is_tsv else ",")
    if delimiter != ("\t" if is_tsv else ","):
        logger.info("%s: its columns are separated by %s", path, DELIMITERS[delimiter])
    try:
        return iter(list(_rows(path, text, first_line, delimiter)))
    except csv.Error as error:
        if delimiter != "\t":
            raise DataError(f"{error}") from None
    # Tab-separated text is often written without quotation marks, so that 5" means five inches.
    logger.info('%s: a " is read as it stands, not as a quotation mark', path)
    try:
        return iter(list(_rows(path, text, first_line, delimiter, quoting=csv.QUOTE_NONE)))
    except csv.Error as error:
        raise DataError(f"{error}") from None


def find_delimiter(text: str, *, default: str) -> str:
    """The delimiter that divides the header into the most cells: the first line, or the one below a title."""
    lines = [line for line in text.splitlines() if line.strip()][:2]
    if not lines:
        return default
    best = _best_delimiter(lines[0], default)
    if len(lines) == 2 and len(_cells(lines[0], best)) == 1 and not names_a_question(lines[0]):
        below = _best_delimiter(lines[1], default)
        if any(map(names_a_question, _cells(lines[1], below))):
            return below
    return best


def _best_delimiter(line: str, default: str) -> str:
    counts = {mark: len(_cells(line, mark)) for mark in (default, *DELIMITERS)}
    return max(counts, key=lambda mark: counts[mark])  # of equal ones the first: the default


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        return []


def count_titles(rows: Sequence[Sequence[str]], *, enough: int = 3) -> int:
    """How many rows above the header hold a title alone: one filled cell.

    The next row that has several is the header if one of them names a question, or if the title stands right above it
    and it has `enough` of them. A cell that itself names a question is no title.
    """
    count = 0
    while count + 1 < len(rows) and _is_title(rows[count], rows[count + 1 :], enough):
        count += 1
    return count


def _is_title(row: Sequence[str], below: Sequence[Sequence[str]], enough: int) -> bool:
    filled = [cell for cell in row if cell.strip()]
    if len(filled) != 1 or names_a_question(filled[0]):
        return False
    header = next((other for other in below if _width(other) > 1), ())
    is_padded = len(row) > 1  # else the row may be the header of a file of one column
    return any(map(names_a_question, header)) or (is_padded and _width(below[0]) >= enough)


def _width(row: Sequence[str]) -> int:
    return sum(bool(cell.strip()) for cell in row)


def _rows(
    path: str, text: str, start: int, delimiter: str, *, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[Row]:
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, strict=True, delimiter=delimiter, quoting=quoting)
    filled: list[tuple[str, list[str]]] = []
    before = start - 1
    try:
        for cells in reader:
            where, start = f"{path}:{start}", before + reader.line_num + 1
            if any(cell.strip() for cell in cells):
                filled.append((where, cells))
    except csv.Error as error:
        raise csv.Error(f"{path}:{start} is not valid CSV: {error}.") from None
    yield from _below_header(path, filled, delimiter)


def _below_header(path: str, filled: list[tuple[str, list[str]]], delimiter: str) -> Iterator[Row]:
    """The rows below the header, and below a title that may stand above it."""
    if titles := count_titles([cells for _, cells in filled[:MAX_TITLES]]):
        shown = ", ".join(repr(" ".join(cells).strip()) for _, cells in filled[:titles])
        logger.info("%s: left out %d title rows above the header: %s", path, titles, shown)
    header: list[str] = []
    for where, cells in filled[titles:]:
        if not header:
            header = check_header([cell.strip() for cell in cells], where)
        elif (len(cells) != len(header) and any(cell.strip() for cell in cells[len(header) :])) or len(
            cells
        ) < len(header):
            yield Row(where, {}, _wrong_number(cells, header, delimiter))
        else:
            values = zip(header, cells[: len(header)], strict=True)
            yield Row(where, {name: cell if cell.strip() else None for name, cell in values})


def _wrong_number(cells: list[str], header: list[str], delimiter: str) -> str:
    return (
        f"has {len(cells)} cells, and the header {len(header)}, separated by {DELIMITERS[delimiter]}. Put cells that "
        'hold one in "quotation marks".'
    )


def check_header(header: list[str], where: str) -> list[str]:
    """The names of the columns. A column without one is called by its number.

    Raises:
        DataError: two columns have one name.
    """
    names = [name or f"column {number}" for number, name in enumerate(header, start=1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"{where}: the header names {', '.join(map(repr, twice))} more than once. Rename one."
        )
    return names
