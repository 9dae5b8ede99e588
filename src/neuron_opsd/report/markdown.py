"""Sections -> report.md: the same numbers as the page, readable in a terminal and on a code host.

Markdown passes HTML through, so all text is made inert by `text/escape.py`.
"""

from collections.abc import Sequence

from neuron_opsd.report import story
from neuron_opsd.report.blocks import (
    Block,
    Browser,
    Bullets,
    Examples,
    Figures,
    Paragraph,
    Prose,
    Section,
    Table,
    Text,
)
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markup import Better, Code, Worse, spaced
from neuron_opsd.text.escape import markdown_block, markdown_code, markdown_text


def document(inputs: ReportInputs, sections: Sequence[Section]) -> str:
    """The whole report as Markdown."""
    parts = [f"# {markdown_text(story.title(inputs))}", markdown_text(story.subtitle(inputs))]
    for section in sections:
        blocks = [text for text in map(render, section.blocks) if text]
        if blocks:
            parts += [f"## {section.title}", *blocks]
    return "\n\n".join(parts) + "\n"


def render(block: Block) -> str:
    """One block. The questions browser is for the page alone."""
    match block:
        case Paragraph(text):
            return _prose(text)
        case Bullets(items):
            return "\n".join(f"- {markdown_text(item)}" for item in items)
        case Examples(title, items, note):
            rows = [[one.label, one.where, one.question, one.before, one.after] for one in items]
            return table(Table(title, ["What", "Question", "Its text", "Before", "After"], rows, note, 5))
        case Table():
            return table(block)
        case Figures(items, _, note):
            shown = [f"*{markdown_text(one.caption)}* {markdown_text(one.description)}" for one in items]
            return "\n\n".join([*shown, *([markdown_text(note)] if note else [])])
        case Text(label, text, _):
            return f"{markdown_text(label)}:\n\n{markdown_block(text)}"
        case Browser():
            return ""


def _prose(text: Prose) -> str:
    """A paragraph: what is marked as code becomes a span of code, everything else is shown as it is."""
    return "".join(part if part == " " else _marked(part) for part in spaced(text))


def _marked(part: str) -> str:
    if isinstance(part, Code):
        return markdown_code(part)
    return f"**{markdown_text(part)}**" if isinstance(part, Better | Worse) else markdown_text(part)


def table(content: Table) -> str:
    """A pipe table with its caption before it and its note after."""
    aligned = [":--" if content.is_text(i) else "--:" for i in range(len(content.columns))]
    lines = [_row(content.columns), _row(aligned, is_rule=True), *(_row(row) for row in content.rows)]
    note = f"\n\n{markdown_text(content.note)}" if content.note else ""
    return f"**{markdown_text(content.caption)}**\n\n" + "\n".join(lines) + note


def _row(cells: Sequence[str], *, is_rule: bool = False) -> str:
    return "| " + " | ".join(cell if is_rule else markdown_text(cell) for cell in cells) + " |"
