"""JSON lines, a JSON array of objects, or an object of rows -> rows, with the line on which each begins."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuron_opsd.errors import DataError
from neuron_opsd.tables.rows import Row
from neuron_opsd.tables.text import read_text

_BLANK = " \t\r\n"
_BETWEEN = re.compile(r"[ \t\r\n,]*")


def read_json(path: str, file: Path) -> Iterator[Row]:
    """The rows of a JSON file, told by what it holds: its name may say .json of lines, or .jsonl of an array.

    Raises:
        DataError: a file that is one JSON value, and is broken. Lines that are broken are bad rows.
    """
    text = read_text(path, file)
    if text.lstrip(_BLANK).startswith("["):
        return _array_rows(path, text)
    if {".jsonl", ".ndjson"} & {suffix.lower() for suffix in file.suffixes[-2:]}:
        return _line_rows(path, text)
    try:
        return _object_rows(path, json.loads(text, object_pairs_hook=_unique_keys))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _line_rows(path, text)
        raise DataError(f"{path}:{error.lineno} {_problem(error, is_last=True)}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} {_problem(error)}") from None


def _line_rows(path: str, text: str) -> Iterator[Row]:
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _row(
                f"{path}:{number}",
                lambda line=line: json.loads(line, object_pairs_hook=_unique_keys),
                is_last=number == len(lines),  # no line break ends it
            )


def _array_rows(path: str, text: str) -> Iterator[Row]:
    """Each element by itself, so that its line is known. What breaks the array breaks the file."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    place, line, counted = text.index("[") + 1, 1, 0
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
        if text[place : place + 1] == "]":
            break
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{line} {_problem(error, is_last=True)}") from None
        yield _row(f"{path}:{line}", lambda value=value: value)
    if rest := text[place + 1 :].strip():
        raise DataError(f"{path} has text after its JSON array: {rest[:40]!r}. Remove what follows.")


def _object_rows(path: str, value: Any) -> Iterator[Row]:
    """{id: row}, {column: {id: cell}} or {column: [cell]} as pandas writes them, {"data": [row]}, or one row."""
    if not isinstance(value, dict):
        raise DataError(
            f"{path} holds a {type(value).__name__}. Write a JSON array of objects, or one a line."
        )
    lists = [part for part in value.values() if isinstance(part, list)]
    tables = [part for part in lists if part and all(isinstance(item, dict) for item in part)]
    inner = list(value.values())
    if len(tables) == 1 and not isinstance(value.get("question"), str):
        rows = [(f"{path} item {number}", row) for number, row in enumerate(tables[0], start=1)]
    elif inner and all(isinstance(part, dict) for part in inner):
        rows = _rows_by_key(path, value)
    elif len(lists) == len(value) and len({len(part) for part in lists}) == 1 and lists:
        columns = [dict(zip(value, cells, strict=True)) for cells in zip(*lists, strict=True)]
        rows = [(f"{path} item {number}", row) for number, row in enumerate(columns, start=1)]
    else:
        rows = [(path, value)]
    return (_row(where, lambda row=row: row) for where, row in rows)


def _rows_by_key(path: str, value: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Rows by their ids, or columns, where the keys inside are the same numbers 0, 1, ... in each."""
    inner = list(value.values())
    keys = list(inner[0])
    if keys == [str(number) for number in range(len(keys))] and all(list(part) == keys for part in inner):
        return [
            (f"{path} item {int(key) + 1}", {name: part[key] for name, part in value.items()}) for key in keys
        ]
    return [(f"{path} item {key!r}", {"question_id": key} | row) for key, row in value.items()]


def _row(where: str, read: Any, *, is_last: bool = False) -> Row:
    try:
        value = read()
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or nesting 10,000 deep
        return Row(where, {}, _problem(error, is_last=is_last))
    if not isinstance(value, dict):
        kind = type(value).__name__
        return Row(where, {}, f'holds a {kind}, not an object such as {{"question": "..."}}.')
    return Row(where, _unfolded(value))


def _unfolded(values: dict[str, Any]) -> dict[str, Any]:
    """ARC's own files keep `stem` and `choices` within `question`: they move up beside it."""
    inner = values.get("question")
    if isinstance(inner, dict) and "stem" in inner:
        return {name: value for name, value in values.items() if name != "question"} | inner
    return values


class _RepeatedKeyError(ValueError):
    pass


def _problem(error: Exception, *, is_last: bool = False) -> str:
    """What is wrong with a JSON text. The end of the last one of a file may be missing."""
    if isinstance(error, _RepeatedKeyError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        what = error.msg.removesuffix(" at")  # "Unterminated string starting at"
        return f"is not valid JSON: {what} at column {error.colno}.{_what_is_missing(error, is_last=is_last)}"
    return f"is not usable JSON: {error}."


def _what_is_missing(error: json.JSONDecodeError, *, is_last: bool) -> str:
    is_open = error.msg.startswith("Unterminated string")
    if is_last and (is_open or error.pos >= len(error.doc.rstrip())):
        return " The text is incomplete: the file may be cut off. Copy or download it again."
    if is_open:
        return ' The line is incomplete: a text lacks its closing ", or has a line break that is not written \\n.'
    return ""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKeyError(f"has the key {twice!r} twice. Keep one.")
    return values
