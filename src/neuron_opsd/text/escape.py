"""Foreign text in each format that we write: HTML, Markdown, TeX, CSV and the terminal.

A question, a domain, the name of a setting, a model's reply, a server's message: none of them may become markup, a
formula, a TeX command or an order to the terminal. This module alone escapes. `report/markup.py` builds HTML on it.
"""

import html
import re

# What moves the reader's eye or the cursor: C0 and C1 controls, DEL, line and paragraph separators, the marks that
# reorder text, and halves of surrogate pairs.
_BIDI = "\u202a-\u202e\u2066-\u2069"
_CONTROLS = rf"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff"
_UNSHOWN = re.compile(f"[{_CONTROLS}]")
_TERMINAL = re.compile(f"[{_CONTROLS}\u061c\u200e\u200f\ufeff]")
REPLACEMENT = "\ufffd"

_MARKDOWN = re.compile(r"([\\`*{}\[\]#|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_TEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # with these a spreadsheet's formula begins


def cleaned(text: object) -> str:
    """Without controls. Line breaks and tabs stay. Each control becomes a mark of replacement."""
    unified = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return _UNSHOWN.sub(REPLACEMENT, unified)


def one_line(text: object) -> str:
    """The same on one line, with single spaces."""
    return " ".join(cleaned(text).split())


def html_text(text: object) -> str:
    """Text that HTML shows as it is, also between quotes."""
    return html.escape(cleaned(text), quote=True)


def markdown_text(text: object) -> str:
    """Text that Markdown shows as it is, on one line. An address in it is no link."""
    escaped = "".join(_ENTITIES.get(c, c) for c in one_line(text))
    escaped = _MARKDOWN.sub(r"\\\1", escaped)
    escaped = re.sub(r"(?i)\bwww\.", r"www\\.", escaped.replace("://", r":\//"))
    escaped = re.sub(r"^([-+=])(?=[\s=-]|$)", r"\\\1", escaped)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", escaped)


def markdown_code(text: object) -> str:
    """A span of code on one line that the text cannot close."""
    code = one_line(text)
    fence = "`" * (_longest_run(code) + 1)
    space = " " if fence != "`" else ""
    return f"{fence}{space}{code}{space}{fence}"


def markdown_block(text: object, language: str = "text") -> str:
    """A block of code that the text cannot close."""
    code = cleaned(text)
    fence = "`" * max(3, _longest_run(code) + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def tex_text(text: object) -> str:
    """Text that TeX sets as it is."""
    return "".join(_TEX.get(c, c) for c in one_line(text))


def tex_comment(text: object) -> str:
    """A comment that stays on its line."""
    return f"% {one_line(text)}"


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet computes. Numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip("\u200b\ufeff\u2060 ").startswith(_FORMULA) else text


def terminal_text(text: object) -> str:
    r"""Text that a terminal prints and does not obey: ESC becomes the four characters \x1b."""
    return _TERMINAL.sub(lambda found: ascii(found[0])[1:-1], str(text))
