"""Sections -> report.md: the same numbers as the page, readable in a terminal and on a code host.

Markdown passes HTML through, so model and data text is made inert: in tables by entities and backslashes,
elsewhere in a fence longer than any run of backticks in it.
"""

import re
from collections.abc import Sequence

from neuron_opsd.report import story
from neuron_opsd.report.blocks import (
    Block,
    Browser,
    Bullets,
    Cards,
    Figures,
    Heading,
    Paragraph,
    Section,
    Table,
    Text,
)
from neuron_opsd.report.inputs import ReportInputs

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def document(inputs: ReportInputs, sections: Sequence[Section]) -> str:
    """The whole report as Markdown."""
    parts = [f"# {inline(story.title(inputs))}", inline(story.subtitle(inputs))]
    for section in sections:
        blocks = [text for text in map(render, section.blocks) if text]
        if blocks:
            parts += [f"## {section.title}", *blocks]
    return "\n\n".join(parts) + "\n"


def render(block: Block) -> str:
    """One block; the questions browser is for the page alone."""
    match block:
        case Heading(text):
            return f"### {inline(text)}"
        case Paragraph(text, _):
            return _with_code(text)
        case Bullets(items):
            return "\n".join(f"- {inline(item)}" for item in items)
        case Cards(items):
            rows = [[card.label, card.before, card.after, card.difference, card.verdict] for card in items]
            return table(Table("In short", ["", "Before", "After", "Difference", "Verdict"], rows))
        case Table():
            return table(block)
        case Figures(items, _):
            return "\n\n".join(f"*{inline(figure.caption)}* {inline(figure.description)}" for figure in items)
        case Text(label, text, _):
            return f"{inline(label)}:\n\n{fenced(text)}"
        case Browser():
            return ""


def _with_code(text: str) -> str:
    """Our own sentences mark commands with backticks; inside them nothing is escaped."""
    parts = text.split("`")
    return " ".join(f"`{part}`" if i % 2 else inline(part) for i, part in enumerate(parts) if part.strip())


def table(content: Table) -> str:
    """A pipe table with its caption before it and its note after."""
    aligned = [":--" if content.is_text(i) else "--:" for i in range(len(content.columns))]
    lines = [_row(content.columns), _row(aligned, is_rule=True), *(_row(row) for row in content.rows)]
    note = f"\n\n{inline(content.note)}" if content.note else ""
    return f"**{inline(content.caption)}**\n\n" + "\n".join(lines) + note


def inline(text: str) -> str:
    """Plain text that Markdown shows as it is, on one line."""
    text = " ".join(str(text).split())
    text = "".join(_ENTITIES.get(c, c) for c in text)
    text = re.sub(r"&(?!amp;|lt;|gt;)", "&amp;", text)
    text = _SPECIAL.sub(r"\\\1", text)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", re.sub(r"^([-+=])(?=\s|$)", r"\\\1", text))


def fenced(text: str) -> str:
    """A code block that the text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _row(cells: Sequence[str], *, is_rule: bool = False) -> str:
    return "| " + " | ".join(cell if is_rule else inline(cell) for cell in cells) + " |"
