"""One cell, or several -> the choices of a question, in whichever of the known shapes they are written.

They are a list of texts, a dict of letter to text, {text: [...], label: [...]} or a list of {label, text} as ARC has
them, a list written as text (in JSON or as Python prints it), lines that begin with A., a) or 1., or one cell a choice.
"""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from neuron_opsd.tables.marked import ALPHABETS, LETTERS, disordered_marks, marked_lines
from neuron_opsd.tables.rows import BadRowError, show

MAX_CHOICES = len(LETTERS)  # as many as there are letters to answer with

_PADDING = {"", "n/a", "nan", "<na>", "null"}
_MARKED = re.compile(r"\s*\(?([A-Za-z]|\d{1,2})\s*(?:[.):]|\s-)\s+(\S.*)", re.DOTALL)
_OTHER_LETTERS = "".join(alphabet + alphabet.lower() for alphabet in ALPHABETS)
_LETTER_KEY = re.compile(rf"(?:option|choice|opt|op)?[ _]?([A-Za-z{_OTHER_LETTERS}]|\d{{1,2}})")
_SEPARATORS = ("|", ";", "\t", " / ")  # with which people divide the choices in one cell

Cell = tuple[str | None, Any]  # its own letter or number, if it has one, and what it holds


class Choices(NamedTuple):
    """The choices of one question. `marks[i]` is what its file calls the i-th: a letter, or its own number."""

    texts: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    places: tuple[int, ...] = ()  # among all that were written, blank ones too
    lost_letters: bool = False
    num_padding: int = 0
    num_repeated: int = 0

    @property
    def has_own_marks(self) -> bool:
        """Whether the letters A, B, C, ... of the texts are not what the file calls them."""
        return self.marks != tuple(LETTERS[: len(self.texts)])


def read_choices(value: Any) -> Choices:
    """The choices in one cell, or in a list of cells.

    Raises:
        BadRowError: a shape that is not known, one choice alone, or more than there are letters.
    """
    cells = _cells(value)
    stripped = _without_letters([cell for _, cell in cells])
    texts: list[str] = []
    marks: list[str] = []
    places: list[int] = []
    padding = repeated = 0
    for k, (mark, cell) in enumerate(cells):
        text = stripped[k] if stripped else _text(cell, k)
        if text.strip().casefold() in _PADDING:
            padding += 1
        elif " ".join(text.split()) in (" ".join(other.split()) for other in texts):
            repeated += 1
        else:
            texts.append(text)
            marks.append(mark or (LETTERS[k] if k < MAX_CHOICES else str(k)))
            places.append(k)
    if texts and not 2 <= len(texts) <= MAX_CHOICES:
        dropped = " once blank and repeated ones are dropped" if padding or repeated else ""
        raise BadRowError(
            f"has {len(texts)} choice(s){dropped}. Write 2 to {MAX_CHOICES}, or none (a free-form question)."
        )
    return Choices(tuple(texts), tuple(marks), tuple(places), bool(stripped), padding, repeated)


def _cells(value: Any) -> list[Cell]:
    if isinstance(value, str) and value.strip():
        return _cells(_parse(value))
    if isinstance(value, dict) and value:
        return _cells_of_dict(value)
    if value is None or value == {} or (isinstance(value, str) and not value.strip()):
        return []
    if not isinstance(value, list | tuple):
        raise BadRowError(f"choices is {show(value)} ({type(value).__name__}). It must be a list of strings.")
    if value and all(isinstance(item, dict) and "text" in item for item in value):
        return [(_mark(item.get("label")), item["text"]) for item in value]
    return [(None, item) for item in value]


def _parse(text: str) -> Any:
    """A list or dict that was written as text."""
    start = text.strip()[0]
    if start in "[{":
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(text.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
            if isinstance(value, list | dict):
                return value
    found = marked_lines(text)
    if found.texts and not found.lead.strip():
        return dict(zip(found.marks, found.texts, strict=True))
    lines = " / ".join(line.strip() for line in text.strip().splitlines())
    raise BadRowError(
        f'choices is {show(lines)}. It must be a list such as ["yes", "no"], or lines that begin with A., a) or 1., in '
        f"order. {_what_is_wrong(text)}Or give each choice a column: choice_a, choice_b."
    )


def _what_is_wrong(text: str) -> str:
    """Why a cell cannot be cut into choices, where it shows how they are written."""
    if text.strip()[0] in "[{":
        return "It begins as a list, and is neither JSON nor a list as Python prints it: look at its quotation marks. "
    if marks := disordered_marks(text):
        return (
            f"Its lines begin with {', '.join(marks)}, which is not the order from the first without a gap. "
        )
    if lead := marked_lines(text).lead.strip() if marked_lines(text).texts else "":
        return f"Before its first choice it has {show(lead)}: move that to the question. "
    if mark := next((mark for mark in _SEPARATORS if mark in text), None):
        name = "tabs" if mark == "\t" else f"'{mark.strip()}'"
        return f"Its choices seem to be separated by {name}, which a text may hold too, so they are not cut there. "
    if len(text.strip().splitlines()) > 1:
        return "Its lines begin with no letter or number. "
    return ""


def _cells_of_dict(value: dict[Any, Any]) -> list[Cell]:
    texts, labels = value.get("text"), value.get("label")
    if isinstance(texts, list):  # {"text": [...], "label": ["A", ...]}, as in ARC on the hub
        known = labels if isinstance(labels, list) and len(labels) == len(texts) else [None] * len(texts)
        return [(_mark(label), text) for label, text in zip(known, texts, strict=True)]
    marks = [_mark(key) for key in value]
    if not value or None in marks or len(set(marks)) < len(marks):
        keys = ", ".join(map(str, value))
        raise BadRowError(f"choices has the keys {show(keys)}. They must be letters such as A, B, C.")
    return list(zip(marks, value.values(), strict=True))


def _mark(label: Any) -> str | None:
    """A letter or number that names a choice, as a capital."""
    match = None if isinstance(label, bool) or label is None else _LETTER_KEY.fullmatch(str(label).strip())
    return str(match[1]).upper() if match else None


def _without_letters(cells: Sequence[Any]) -> list[str]:
    """The texts without their letters, where each begins with its own ("A. insulin", "B. glucagon"), else none."""
    matches = [_MARKED.fullmatch(cell) if isinstance(cell, str) else None for cell in cells]
    filled = {k: match for k, match in enumerate(matches) if match}
    blank = sum(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells)
    if len(filled) < 2 or len(filled) + blank < len(cells):
        return []
    own = all(match[1].upper() == LETTERS[k : k + 1] for k, match in filled.items())
    numbered = all(match[1] == str(k + 1) for k, match in filled.items())
    if not own and not numbered:
        return []
    return [match[2] if match else "" for match in matches]


def _text(cell: Any, k: int) -> str:
    if cell is None or cell != cell:  # NaN is blank too
        return ""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return str(cell)
    if not isinstance(cell, str):
        raise BadRowError(f"choices[{k}] is {show(cell)} ({type(cell).__name__}). It must be a string.")
    if any("\ud800" <= letter <= "\udfff" for letter in cell):
        raise BadRowError(
            f"choices[{k}] holds half a surrogate pair (such as \\ud83d), which is not a character."
        )
    return cell
