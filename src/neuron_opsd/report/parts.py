"""Small things that several sections share."""

from collections.abc import Sequence
from dataclasses import replace

from neuron_opsd.report.blocks import Block, Paragraph, Table
from neuron_opsd.report.markup import Code


def missing(what: str, command: str) -> Paragraph:
    return Paragraph((f"{what} The command", Code(f"neuron-opsd {command}"), "makes it."), is_notice=True)


def present(*blocks: Block | None) -> list[Block]:
    return [block for block in blocks if block is not None]


def listed(parts: Sequence[str]) -> str:
    """The parts as a sentence names them: a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def folded(table: Table) -> Table:
    return replace(table, folded=True)


def clip(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
