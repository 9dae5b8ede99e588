"""Sections on what evaluation measured: results and calibration."""

from neuron_opsd.report import calibration_tables, figures, scatter, story, tables
from neuron_opsd.report.blocks import Block, Figure, Figures, Paragraph, Table
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.parts import folded, missing, present
from neuron_opsd.report.risk_coverage import risk_coverage
from neuron_opsd.results import Harness, Results


def results_section(inputs: ReportInputs) -> list[Block]:
    results = inputs.results
    if not results:
        return [missing("No results yet.", "evaluate")]
    cross, blocks = results.cross, present(tables.grid_table(results))
    if results.in_domain:
        blocks.append(tables.metrics_table(f"In-domain: {results.train_domain}", results.in_domain))
    blocks += [
        folded(tables.metrics_table(f"In-domain: {domain}", block)) for domain, block in results.own.items()
    ]
    if cross.mean:
        blocks.append(tables.metrics_table(tables.cross_caption(results), cross.mean))
        if cross.mean.num_domains > 1:
            blocks += [
                folded(tables.metrics_table(f"Cross-domain: {domain}", block))
                for domain, block in cross.domains.items()
            ]
    else:
        blocks.append(
            Paragraph("No other domain was evaluated, so nothing is known of cross-domain effects.")
        )
    blocks += general_tables(results) + present(_harness_table(inputs.harness))
    blocks += present(tables.changes_table(results), tables.distribution_table(results))
    if results.num_not_scored:
        blocks.append(
            Paragraph(
                f"{results.num_not_scored:,} questions lack rollouts of one model and are left out.", True
            )
        )
    return blocks


def general_tables(results: Results) -> list[Table]:
    """What training did to general questions, where some were asked."""
    if not results.general:
        return []
    blocks = [
        tables.metrics_table(f"General questions: {domain}", block)
        for domain, block in results.general.domains.items()
    ]
    kl = results.general.kl_from_base
    note = "0 means an unchanged model. In brackets: the 95% interval over questions."
    rows = [[kl.label, tables.interval_text(kl.estimate, digits=4)]]
    return [*blocks, Table("How far the trained model moved from the base", ["What", "Value"], rows, note)]


def _harness_table(harness: Harness | None) -> Table | None:
    """What lm-evaluation-harness found, where it was run."""
    if not harness:
        return None
    tasks = {"base": harness.base.tasks} | ({"trained": harness.trained.tasks} if harness.trained else {})
    rows = [
        [
            f"{task}, {metric}",
            f"{scores['num_questions']:,}",
            *(f"{tasks[role][task][metric]:.3f}" for role in tasks),
        ]
        for task, scores in harness.base.tasks.items()
        for metric in scores
        if metric != "num_questions"
    ]
    note = f"Version {harness.lm_eval}, with wording and scoring of its own; no intervals."
    return Table("lm-evaluation-harness", ["Task", "Questions", *tasks], rows, note)


def calibration_section(inputs: ReportInputs) -> list[Block]:
    """Reliability, risk and coverage of both models for each confidence, and accuracy against calibration error."""
    results = inputs.results
    if not results:
        return []
    rules: dict[str, str] = {}
    blocks: list[Block] = []
    for index, (where, block) in enumerate(tables.domain_blocks(results)):
        for one in calibration_tables.confidences(block):
            rules.setdefault(one.label, one.rule)
            caption = f"More about calibration: {where}, {one.label}"
            if one.ece.caution:
                blocks.append(Paragraph(f"{where}, {one.label}. {one.ece.caution}", is_notice=True))
            blocks += [
                Figures([*_diagrams(f"reliability-{index}", one, where), *_curves(index, one, where)]),
                tables.metrics_table(caption, block, names=one.names, folded=True),
            ]
    if not blocks:
        return [Paragraph(_why_no_calibration(results), True)]
    drawn = [_accuracy_against_ece(results, label) for label in rules]
    return [
        *story.calibration_in_words(rules),
        *present(
            calibration_tables.calibration_table(results),
            calibration_tables.temperature_table(results),
            calibration_tables.risk_coverage_table(results),
            calibration_tables.brier_table(results),
        ),
        Figures(drawn),
        *blocks,
    ]


def _why_no_calibration(results: Results) -> str:
    if any(block.num_with_gold for _, block in tables.domain_blocks(results)):
        return "Hardly any reply could be read, and calibration cannot be measured without votes."
    return "There are no gold answers, and calibration cannot be measured without any."


def _diagrams(name: str, one: calibration_tables.Confidence, where: str) -> list[Figure]:
    return [
        figures.reliability(
            f"{name}-{figures.identifier(one.kind)}-{role}",
            bins,
            what=f"{figures.ROLES[role]}, {where}",
            confidence=one.label,
            class_=role,
            is_unreliable=role in one.unreliable,
        )
        for role, bins in one.reliability.items()
    ]


def _curves(index: int, one: calibration_tables.Confidence, where: str) -> list[Figure]:
    """The risk-coverage curves of both models in one drawing."""
    if not one.risk_coverage:
        return []
    return [
        risk_coverage(
            f"risk-{index}-{figures.identifier(one.kind)}",
            one.risk_coverage,
            where=where,
            confidence=one.label,
            is_unreliable=bool(one.unreliable),
        )
    ]


def _accuracy_against_ece(results: Results, label: str) -> Figure:
    """Figure of one kind of confidence, for the domains in which it was measured."""
    found = [
        (where, one.accuracy, one.ece)
        for where, block in tables.domain_blocks(results)
        for one in calibration_tables.confidences(block)
        if one.label == label
    ]
    return scatter.before_and_after(f"accuracy-{figures.identifier(label)}", found)
