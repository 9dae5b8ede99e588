"""The section on the preflight: was training likely to help, told without labels."""

from collections.abc import Mapping
from typing import Any

from neuron_opsd.report import tables
from neuron_opsd.report.blocks import Block, Bullets, Paragraph, Table
from neuron_opsd.report.inputs import ReportInputs


def preflight_section(inputs: ReportInputs) -> list[Block]:
    """The verdict, its reasons and every measure; nothing where there was no preflight."""
    preflight = inputs.preflight
    if not preflight:
        return []
    blocks: list[Block] = [Paragraph(preflight_in_words(preflight))]
    if preflight.get("reasons"):
        blocks.append(Bullets([str(reason) for reason in preflight["reasons"]]))
    rows = [
        [
            str(one.get("label", one.get("name", ""))),
            tables.interval_text(one, is_fine=True),
            str(one.get("note") or ""),
        ]
        for one in preflight.get("measures", ())
    ]
    note = "In brackets: 95% intervals. The thresholds are heuristics: no measure here is proof."
    if rows:
        blocks.append(Table("What was measured before training", ["Measure", "Value", "Note"], rows, note, 1))
    return blocks


def preflight_in_words(preflight: Mapping[str, Any]) -> str:
    """The verdict as a sentence."""
    return f"Before training, and without any label, it looked {preflight.get('verdict', 'undecided')}."
