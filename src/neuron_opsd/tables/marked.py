"""A text -> the choices that it lists: one a line, marked "A. x", "b) y", "3. z" or "甲、x", or all within one line."""

import re
from collections.abc import Sequence
from typing import NamedTuple

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Letters and signs that number choices in other scripts. The last two are kana and hangul.
ALPHABETS = (
    "АБВГДЕЖЗИК",
    "ΑΒΓΔΕΖΗΘ",
    "אבגדהוזח",
    "أبجدهوزح",
    "甲乙丙丁戊己庚辛",
    "アイウエオカキク",
    "가나다라마바사아",
)
_NUMBERS = tuple(map(str, range(1, len(LETTERS) + 1)))

_BLANK = r"[ \t\u00a0\u3000]"
_DOT, _BRACKET = "[.:．：、]", "[)）]"
_WIDE_DOT = "[．：、]"  # no blank follows it


class MarkedLines(NamedTuple):
    """The lines of a text that are marked as choices, without their marks, and what stands before them."""

    lead: str
    marks: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class _Style(NamedTuple):
    marks: Sequence[str]
    line: re.Pattern[str]
    inline: re.Pattern[str]

    def is_possible(self, text: str) -> bool:
        """Whether a text has the first two marks at all. Most have those of few alphabets, and patterns take longer."""
        return self.marks[0] in text and self.marks[1] in text


def _style(marks: Sequence[str], mark: str, *, is_strict: bool) -> _Style:
    """How lines may be marked with these. Strict marks are common in other texts: "1.5 mg" marks no choice."""
    dot = rf"{_WIDE_DOT}|[.:](?={_BLANK})" if is_strict else _DOT
    end = f"(?:{_DOT}?{_BRACKET}|{dot})"
    within = f"{_DOT}?{_BRACKET}" if is_strict else f"(?:{_DOT}?{_BRACKET}|{_DOT}(?=\\s))"
    return _Style(
        marks,
        re.compile(rf"(?:^|[\r\n]){_BLANK}*[(（]?({mark}){_BLANK}*{end}{_BLANK}*"),
        re.compile(rf"(?:^|(?<=[\s,;|/]))[(（]?({mark}){within}(?=\s*\S)"),
    )


_CAPITALS = _style(LETTERS, "[A-Z]", is_strict=False)
_NUMBERED = _style(_NUMBERS, r"\d{1,2}", is_strict=True)
_OTHERS = (
    _style(LETTERS.lower(), "[a-z]", is_strict=True),
    _NUMBERED,
    *(
        _style(letters, f"[{letters}]", is_strict=True)
        for alphabet in ALPHABETS
        for letters in dict.fromkeys([alphabet, alphabet.lower()])
    ),
)


def marked_lines(text: str) -> MarkedLines:
    """The lines that begin with A., B., ..., or with a), b), ..., or 1., 2., ..., in order from the first mark.

    Of several such lists in one text the capitals are the choices, else the list that begins last.
    """
    if capitals := _marked_so(text, _CAPITALS):
        return capitals
    others = [found for style in _OTHERS if (found := _marked_so(text, style)) and not _goes_on(found)]
    return max(others, key=lambda found: len(found.lead), default=MarkedLines(text))


def _marked_so(text: str, style: _Style) -> MarkedLines | None:
    if not style.is_possible(text):
        return None
    parts = style.line.split(text)
    marks = parts[1::2]
    if len(marks) < 2 or marks != list(style.marks[: len(marks)]):
        return None
    return MarkedLines(parts[0], tuple(marks), tuple(part.strip() for part in parts[2::2]))


def _goes_on(found: MarkedLines) -> bool:
    """Whether the question itself follows its list: these are statements or findings, and no choices."""
    last = found.texts[-1]
    return "\n" in last and last.endswith(("?", "？"))


def is_numbered(found: MarkedLines) -> bool:
    """Whether the marks are numbers, as those of steps are too."""
    return found.marks[:1] == _NUMBERS[:1]


def marks_within(text: str) -> tuple[str, ...]:
    """The marks of choices that follow each other within a line ("... A) x B) y"), in order from the first."""
    for style in filter(lambda style: style.is_possible(text), (_CAPITALS, *_OTHERS)):
        found = list(style.inline.finditer(text))
        marks = [match[1] for match in found]
        for k in range(len(marks) - 1):
            is_first = marks[k : k + 2] == list(style.marks[:2])
            if is_first and not all(_begins_line(text, match) for match in found[k : k + 2]):
                return _run(marks[k:], style.marks)
    return ()


def _begins_line(text: str, match: re.Match[str]) -> bool:
    return not re.split(r"[\r\n]", text[: match.start()])[-1].strip()


def _run(marks: Sequence[str], order: Sequence[str]) -> tuple[str, ...]:
    """The marks before the first that is out of order."""
    count = 0
    while count < min(len(marks), len(order)) and marks[count] == order[count]:
        count += 1
    return tuple(marks[:count])


def disordered_marks(text: str) -> tuple[str, ...]:
    """The letters that begin lines, where they do not run from the first without a gap."""
    for style in (_CAPITALS, _OTHERS[0]):
        marks = style.line.findall(text)
        if len(marks) > 1 and marks != list(style.marks[: len(marks)]):
            return tuple(marks)
    return ()
