"""Stage 1, reading: a file or a `datasets` data set -> rows without answers, each with its place.

Formats: JSON lines (.jsonl, .ndjson), CSV (.csv, with a header), Parquet (.parquet), or the name of a data
set of the `datasets` library, written owner/name, owner/name:config or owner/name:config:split. Text is
UTF-8.

Columns that hold answers are dropped here, before any record exists, so that nothing later can read them; of
a Parquet file or a data set they are not even loaded. `evaluation/answer_key.py` reads answers on its own.
"""

import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from neuron_opsd.errors import DataError

log = logging.getLogger(__name__)

FIELDS = ("question", "choices", "question_id", "domain", "system")
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")

# choice_a, choice_1, option_b, ... or a bare capital letter: one choice a column.
_CHOICE_COLUMN = re.compile(r"(?:choice|option)_([a-z]|[A-Z]|[1-9]\d?)|([A-Z])")
_ANSWER_STARTS = (
    "answer",
    "gold",
    "label",
    "target",
    "correct",
    "solution",
    "explanation",
    "rationale",
    "groundtruth",
)
_ANSWER_ENDS = ("answer", "answers", "label", "labels", "solution", "rationale", "explanation")
_ANSWER_NAMES = ("cop", "exp", "finaldecision", "iscorrect", "output", "response", "completion")


class Row(NamedTuple):
    """One item as read: where it stands ("file.jsonl:7") and its known columns."""

    where: str
    values: dict[str, Any]


def read_rows(path: str) -> list[Row]:
    """Read every row of a file or data set, without the columns that hold answers.

    Raises:
        DataError: the file is missing, empty, of another format, not UTF-8, or malformed (with the line).
    """
    rows = list(_rows_of(path))
    if not rows:
        raise DataError(f"{path} holds no questions. Write one JSON object a line, or a CSV header and rows.")
    _note_columns(path, {column for row in rows for column in row.values})
    return [Row(row.where, {k: v for k, v in row.values.items() if is_question_column(k)}) for row in rows]


def is_answer_column(name: str) -> bool:
    """Whether a column's name says that it holds answers, or reasons for them."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain.startswith(_ANSWER_STARTS) or plain.endswith(_ANSWER_ENDS) or plain in _ANSWER_NAMES


def is_question_column(name: str) -> bool:
    """Whether a column is read: one of `FIELDS`, or one choice (choice_a, option_1, A)."""
    return name in FIELDS or (choice_position(name) is not None)


def choice_position(name: str) -> int | None:
    """Position of a one-choice column: 0 for choice_a, choice_1, option_A or A; None for other columns."""
    match = _CHOICE_COLUMN.fullmatch(name)
    if match is None:
        return None
    key = match[1] or match[2]
    return int(key) - 1 if key.isdigit() else ord(key.upper()) - ord("A")


def _note_columns(path: str, columns: set[str]) -> None:
    unread = {column for column in columns if not is_question_column(column)}
    unread = {column.encode(errors="backslashreplace").decode() for column in unread}  # a log line must print
    answers = sorted(column for column in unread if is_answer_column(column))
    if answers:
        log.warning(
            "%s: dropped the answer columns %s; only evaluation may read answers (--answers)",
            path,
            ", ".join(answers),
        )
    if others := sorted(unread.difference(answers)):
        log.warning("%s: ignored the columns %s; read are %s", path, ", ".join(others), ", ".join(FIELDS))


def _rows_of(path: str) -> Iterator[Row]:
    file = Path(os.path.expanduser(path))
    if os.path.isdir(file):
        raise DataError(f"{path} is a folder. Name one file ({', '.join(SUFFIXES)}).")
    if not os.path.exists(file):  # not file.exists(), which raises on a name that is too long
        if _looks_like_file(path):
            raise DataError(f"There is no file {path} (looked in {Path.cwd()}). Check the path.")
        return _hub_rows(path)
    reader = {".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    if file.suffix.lower() not in reader:
        raise DataError(
            f"{path} ends in '{file.suffix}', which is not read. Use one of {', '.join(SUFFIXES)}."
        )
    return reader[file.suffix.lower()](path, file)


def _looks_like_file(path: str) -> bool:
    """A suffix of letters, or a path no hub name can have; so a typing error never becomes a hub look-up."""
    known = Path(path).suffix.lower() in SUFFIXES
    return (
        known
        or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[^:/]*){0,2}", path)
        or bool(path.startswith((".", "~")) or re.search(r"\.[A-Za-z]{2,8}$", path))
    )


def _read_text(path: str, file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line} is not UTF-8 (byte 0x{data[error.start]:02x}). Save the file as UTF-8."
        ) from None


def _jsonl_rows(path: str, file: Path) -> Iterator[Row]:
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for number, line in enumerate(_read_text(path, file).split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield Row(where, _parse_object(line, where))


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=lambda pairs: _unique_keys(pairs, where))
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; nesting 10,000 deep
        raise DataError(f"{where} is not usable JSON: {error}.") from None
    if not isinstance(value, dict):
        raise DataError(
            f'{where} holds a {type(value).__name__}, not an object such as {{"question": "..."}}.'
        )
    return value


def _unique_keys(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where} has the key {twice!r} twice. Keep one.")
    return values


def _csv_rows(path: str, file: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_read_text(path, file), newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _check_header([cell.strip() for cell in cells], where)
                continue
            if len(cells) != len(header):
                raise DataError(f"{where} has {len(cells)} cells; the header has {len(header)} columns.")
            yield Row(where, {k: _csv_cell(k, v, where) for k, v in zip(header, cells, strict=True)})
    except csv.Error as error:
        raise DataError(f"{path}:{start} is not valid CSV: {error}.") from None


def _check_header(header: list[str], where: str) -> list[str]:
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(
            f"{where}: the header names {', '.join(map(repr, twice))} more than once. Rename one."
        )
    return header


def _csv_cell(column: str, cell: str, where: str) -> Any:
    """An empty cell is a missing value, save for the question itself; `choices` is a JSON list."""
    if column != "choices" or not cell.strip():
        return cell if cell.strip() or column == "question" else None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise DataError(
            f'{where}: choices must be a JSON list such as ["yes", "no"]; or use columns choice_a, choice_b.'
        ) from None


def _parquet_rows(path: str, file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
        _check_header(names, path)
        # A file of unread columns only still has rows, each of which lacks its question.
        columns = [name for name in names if is_question_column(name)] or names
        rows = pq.ParquetFile(file).read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    yield from _with_unread_names(rows, names, path)


def _with_unread_names(rows: list[dict[str, Any]], names: list[str], path: str) -> Iterator[Row]:
    """Number the rows; the first also carries the names of columns that were not loaded, for the notice."""
    for number, row in enumerate(rows, start=1):
        unread = dict.fromkeys(names) if number == 1 else {}
        yield Row(f"{path} row {number}", unread | row)


def _hub_rows(name: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{name} is no file here, and the `datasets` library, which could fetch a data set so named, is "
            "not installed. Check the path, or run: pip install 'neuron-opsd[datasets]'"
        ) from None
    repository, config, split = [*name.split(":"), "", ""][:3]
    try:
        loaded = datasets.load_dataset(repository, config or None)
    except Exception as error:  # hub, network, offline mode, builder: one message for all of them
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{name} is no file here, and `datasets` cannot load a data set of that name: {reason[0]}. "
            "Check the path, or that the hub can be reached (HF_HUB_OFFLINE is heeded)."
        ) from None
    if split not in loaded and (split or "train" not in loaded):
        raise DataError(
            f"{name} has the splits {', '.join(map(str, loaded))}. Name one: {repository}:{config}:SPLIT"
        )
    table: Any = loaded[split or "train"]
    log.info("%s: read the split '%s' of %s", name, split or "train", ", ".join(map(str, loaded)))
    columns = [column for column in table.column_names if is_question_column(column)]
    yield from _with_unread_names(list(table.select_columns(columns)), table.column_names, name)
