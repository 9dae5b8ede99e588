"""Small things that several sections share."""

from dataclasses import replace

from neuron_opsd.report.blocks import Block, Paragraph, Table
from neuron_opsd.report.markup import Code


def missing(what: str, command: str) -> Paragraph:
    return Paragraph((f"{what} The command", Code(f"neuron-opsd {command}"), "makes it."), is_notice=True)


def present(*blocks: Block | None) -> list[Block]:
    return [block for block in blocks if block is not None]


def folded(table: Table) -> Table:
    return replace(table, folded=True)


def clip(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
