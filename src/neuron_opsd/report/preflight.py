"""The section on the preflight: what spoke against training, told without labels."""

from neuron_opsd.report import tables
from neuron_opsd.report.blocks import Block, Bullets, Paragraph, Table
from neuron_opsd.report.inputs import ReportInputs

THINKS = (
    "This model thinks. Privileged context has been reported to hurt such models (arXiv 2607.05184). Look at the share "
    "of replies that finish, and at their length, before and after training."
)


def preflight_section(inputs: ReportInputs) -> list[Block]:
    """The verdict, its reasons and every measure. Nothing where there was no preflight."""
    preflight = inputs.preflight
    if not preflight:
        return []
    rows = [[one.label, tables.interval_text(one, is_fine=True), one.note] for one in preflight.measures]
    note = "In brackets: 95% intervals. The thresholds are heuristics: no measure here is proof."
    return [
        Paragraph(f"What could be said before training, and without any label: {preflight.verdict}."),
        *([Paragraph(THINKS, is_notice=True)] if preflight.thinks else []),
        Bullets(preflight.reasons),
        Table("What was measured before training", ["Measure", "Value", "Note"], rows, note, 1),
    ]
