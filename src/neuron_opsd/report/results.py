"""Sections on what evaluation measured: results and calibration."""

from collections.abc import Mapping
from typing import Any

from neuron_opsd.report import figures, scatter, story, tables
from neuron_opsd.report.blocks import Block, Figure, Figures, Paragraph, Table
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.parts import folded, missing, present


def results_section(inputs: ReportInputs) -> list[Block]:
    results = inputs.results
    if not results:
        return [missing("No results yet.", "evaluate")]
    cross, blocks = results["cross"], present(tables.grid_table(results))
    if results.get("in"):
        blocks.append(tables.metrics_table(f"In-domain: {results['train_domain']}", results["in"]))
    if cross["mean"]:
        number = cross["mean"]["num_domains"]
        blocks.append(tables.metrics_table(tables.cross_caption(results), cross["mean"]))
        if number > 1:
            blocks += [
                folded(tables.metrics_table(f"Cross-domain: {domain}", block))
                for domain, block in cross["domains"].items()
            ]
    else:
        blocks.append(
            Paragraph("No other domain was evaluated, so nothing is known of cross-domain effects.")
        )
    drawn = [_difference_figure(results, name) for name in ("avg", "ece", "vote_share", "completion_tokens")]
    has_gold = all(block["num_with_gold"] for _, block in tables.domain_blocks(results))
    blocks.append(Figures([figure for figure in drawn if figure][: 2 if has_gold else 4]))
    blocks += general_tables(results) + present(_harness_table(inputs.harness))
    blocks += present(tables.changes_table(results), tables.distribution_table(results))
    if results.get("num_not_scored"):
        blocks.append(
            Paragraph(
                f"{results['num_not_scored']:,} questions lack rollouts of one model and are left out.", True
            )
        )
    return blocks


def general_tables(results: Mapping[str, Any]) -> list[Table]:
    """What training did to general questions, where some were asked."""
    general = results.get("general")
    if not general:
        return []
    blocks = [
        tables.metrics_table(f"General questions: {domain}", block)
        for domain, block in general.get("domains", {}).items()
    ]
    kl = general.get("kl_from_base")
    if kl:
        rows = [[kl.get("label", "KL(trained || base)"), tables.interval_text(kl, digits=4)]]
        note = "0 means an unchanged model. In brackets: the 95% interval over questions."
        blocks.append(Table("How far the trained model moved from the base", ["What", "Value"], rows, note))
    return blocks


def _harness_table(harness: Mapping[str, Any] | None) -> Table | None:
    """What lm-evaluation-harness found, where it was run."""
    if not harness:
        return None
    tasks = {role: harness[role]["tasks"] for role in ("base", "trained") if role in harness}
    rows = [
        [
            f"{task}, {metric}",
            f"{scores['num_questions']:,}",
            *(f"{tasks[role][task][metric]:.3f}" for role in tasks),
        ]
        for task, scores in tasks["base"].items()
        for metric in scores
        if metric != "num_questions"
    ]
    note = f"Version {harness['lm_eval']}, with wording and scoring of its own; no intervals."
    return Table("lm-evaluation-harness", ["Task", "Questions", *tasks], rows, note)


def _difference_figure(results: Mapping[str, Any], name: str) -> Figure | None:
    entries = [(w, b["metrics"][name]) for w, b in tables.domain_blocks(results) if name in b["metrics"]]
    mean = results["cross"]["mean"]
    if mean and mean["num_domains"] > 1 and name in mean["metrics"]:
        entries.append(("mean of the other domains", mean["metrics"][name]))
    drawable = [entry for _, entry in entries if entry["difference"]["low"] is not None]
    return figures.differences(f"difference-{name}", drawable[0]["label"], entries) if drawable else None


def calibration_section(inputs: ReportInputs) -> list[Block]:
    """Reliability of both models for each confidence, and accuracy against calibration error."""
    results = inputs.results
    if not results:
        return []
    rules: dict[str, str] = {}
    blocks: list[Block] = []
    for index, (where, block) in enumerate(tables.domain_blocks(results)):
        for one in tables.confidences(block):
            rules.setdefault(one.label, one.rule)
            caption = f"More about calibration: {where}, {one.label}"
            if one.caution:
                blocks.append(Paragraph(f"{where}, {one.label}. {one.caution}", is_notice=True))
            blocks += [
                Figures(_diagrams(f"reliability-{index}", one, where)),
                tables.metrics_table(caption, block, names=set(one.metrics.values()), folded=True),
            ]
    if not blocks:
        return [Paragraph("There are no gold answers, and calibration cannot be measured without any.", True)]
    drawn = [figure for label in rules if (figure := _accuracy_against_ece(results, label))]
    return [
        *story.calibration_in_words(rules),
        *present(tables.calibration_table(results), tables.brier_table(results)),
        Figures(drawn),
        *blocks,
    ]


def _diagrams(name: str, one: tables.Confidence, where: str) -> list[Figure]:
    return [
        figures.reliability(
            f"{name}-{figures.identifier(one.kind)}-{role}",
            bins,
            what=f"{figures.ROLES.get(role, role)}, {where}",
            confidence=one.label,
            class_=role,
            is_unreliable=role in one.unreliable,
        )
        for role, bins in one.reliability.items()
    ]


def _accuracy_against_ece(results: Mapping[str, Any], label: str) -> Figure | None:
    """Figure of one kind of confidence, for the domains in which both were measured."""
    entries = []
    for where, block in tables.domain_blocks(results):
        names = next((one.metrics for one in tables.confidences(block) if one.label == label), {})
        accuracy, error = (block["metrics"].get(names.get(key, "")) for key in ("accuracy", "ece"))
        if _is_measured(accuracy) and _is_measured(error):
            entries.append((where, accuracy, error))
    return scatter.before_and_after(f"accuracy-{figures.identifier(label)}", entries) if entries else None


def _is_measured(entry: Mapping[str, Any] | None) -> bool:
    return bool(entry) and all(entry[role]["value"] is not None for role in ("base", "trained"))
