"""Tables of calibration: each kind of confidence, beside what chance and the best temperature would give."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from neuron_opsd.report.blocks import Table
from neuron_opsd.report.tables import (
    NOT_DEFINED,
    WORDS,
    domain_blocks,
    interval_text,
    number,
    simulated_text,
)
from neuron_opsd.results import (
    Bin,
    Both,
    BrierParts,
    CoveragePoint,
    DomainResult,
    MetricResult,
    Results,
    Role,
)


@dataclass(frozen=True, slots=True)
class Confidence:
    """One kind of confidence in one domain: its rule, bins, Brier parts and the names of its metrics."""

    kind: str
    label: str
    rule: str
    reliability: Both[tuple[Bin, ...]]
    brier_parts: Both[BrierParts]
    ece: MetricResult
    accuracy: MetricResult
    aurc: MetricResult | None
    risk_coverage: Both[tuple[CoveragePoint, ...]] | None
    names: Collection[str]  # of its metrics in the block
    unreliable: Sequence[Role]  # the roles for which it cannot be relied on


def confidences(block: DomainResult) -> list[Confidence]:
    """The kinds of confidence that were measured against gold answers, vote share first."""
    return [
        Confidence(
            kind,
            found.label.lower(),
            found.rule,
            found.reliability,
            found.brier_parts,
            ece=block.metrics[found.metrics["ece"]],
            accuracy=block.metrics[found.metrics["accuracy"]],
            aurc=block.metrics.get(found.metrics.get("aurc", "")),
            risk_coverage=found.risk_coverage,
            names=set(found.metrics.values()),
            unreliable=block.metrics[found.metrics["ece"]].unreliable,
        )
        for kind, found in block.confidence_kinds.items()
        if found.reliability and found.brier_parts
    ]


def calibration_table(results: Results) -> Table | None:
    """ECE beside the value that a perfectly calibrated model would show at the same number of questions."""
    rows: list[list[str]] = []
    for where, block in domain_blocks(results):
        for kind in confidences(block):
            ideal = kind.ece.perfectly_calibrated
            for role, own in kind.ece.both.items():
                label = kind.label + (" (unreliable)" if role in kind.unreliable else "")
                told = simulated_text(ideal.of(role)) if ideal else NOT_DEFINED
                rows.append([where, label, WORDS[role], interval_text(own), told])
    columns = ["Domain", "Confidence", "Training", "ECE", "Perfectly calibrated"]
    note = (
        "“Perfectly calibrated”: the ECE that a model right exactly as often as it says would show with "
        "these confidences and this many questions (mean and central 95% of simulations)."
    )
    return Table("Calibration error in context", columns, rows, note, num_text_columns=3) if rows else None


def temperature_table(results: Results) -> Table | None:
    """ECE of the option probabilities at the temperature of use, at 1, and where sharpening is taken out."""
    rows: list[list[str]] = []
    for where, block in domain_blocks(results):
        found = [block.metrics.get(name) for name in ("option_ece_use", "option_ece", "option_ece_matched")]
        matched = block.matched_temperatures
        if matched is None or None in found:
            continue
        for role, temperature in matched.items():
            values = [interval_text(metric.both.of(role)) for metric in found if metric]
            rows.append([where, WORDS[role], *values, number(temperature)])
    columns = [
        "Domain",
        "Training",
        f"At temperature {results.temperature:g}",
        "At 1",
        "At the base's mean entropy",
    ]
    note = (
        "A model that is only surer than before differs at 1, and not at the base's mean entropy. The last column is "
        "the temperature at which its options have that entropy. No label is needed to find it."
    )
    return (
        Table(
            "Calibration error of option probabilities, by temperature", [*columns, "Which is"], rows, note, 2
        )
        if rows
        else None
    )


def risk_coverage_table(results: Results) -> Table | None:
    """Error rates of the most confident answers, and the area under that curve."""
    shown = (0.2, 0.4, 0.6, 0.8, 1.0)
    rows = [
        [
            where,
            kind.label,
            WORDS[role],
            *(number(point.risk) for point in points if point.coverage in shown),
            interval_text(kind.aurc.both.of(role)),
        ]
        for where, block in domain_blocks(results)
        for kind in confidences(block)
        if kind.risk_coverage and kind.aurc
        for role, points in kind.risk_coverage.items()
    ]
    columns = ["Domain", "Confidence", "Training", *(f"Top {share:.0%}" for share in shown), "AURC"]
    note = (
        "Share of wrong answers among the most confident ones: what abstaining on the others would leave. AURC is "
        "the area under that curve. Small is good."
    )
    return Table("Risk and coverage", columns, rows, note, num_text_columns=3) if rows else None


def brier_table(results: Results) -> Table | None:
    """The parts of the Brier score of each kind of confidence."""
    rows = [
        [where, kind.label, WORDS[role], *map(number, (own.reliability, own.resolution, own.uncertainty))]
        for where, block in domain_blocks(results)
        for kind in confidences(block)
        for role, own in kind.brier_parts.items()
    ]
    columns = ["Domain", "Confidence", "Training", "Reliability", "Resolution", "Uncertainty"]
    note = "Brier score = reliability (small is good) − resolution (large is good) + uncertainty."
    caption = "Parts of the Brier score"
    return Table(caption, columns, rows, note, num_text_columns=3, folded=True) if rows else None
