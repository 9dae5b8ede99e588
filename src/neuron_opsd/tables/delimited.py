"""CSV and TSV -> rows. The delimiter is told from the header. An empty cell is a missing value."""

import csv
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from neuron_opsd.errors import DataError
from neuron_opsd.tables.rows import Row
from neuron_opsd.tables.text import read_text

logger = logging.getLogger(__name__)

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
    """The delimiter that divides the first line into the most cells."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    counts = {mark: _count_cells(header, mark) for mark in (default, *DELIMITERS)}
    return max(counts, key=lambda mark: counts[mark])  # of equal ones the first: the default


def _count_cells(header: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([header], delimiter=delimiter)))
    except csv.Error:
        return 0


def _rows(
    path: str, text: str, start: int, delimiter: str, *, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[Row]:
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, strict=True, delimiter=delimiter, quoting=quoting)
    header: list[str] | None = None
    before = start - 1
    try:
        for cells in reader:
            where, start = f"{path}:{start}", before + reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = check_header([cell.strip() for cell in cells], where)
            elif (len(cells) != len(header) and any(cell.strip() for cell in cells[len(header) :])) or len(
                cells
            ) < len(header):
                yield Row(where, {}, _wrong_number(cells, header, delimiter))
            else:
                values = zip(header, cells[: len(header)], strict=True)
                yield Row(where, {name: cell if cell.strip() else None for name, cell in values})
    except csv.Error as error:
        raise csv.Error(f"{path}:{start} is not valid CSV: {error}.") from None


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
