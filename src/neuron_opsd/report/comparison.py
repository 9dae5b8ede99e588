"""The section that compares many methods: tables, grids, accuracy against calibration error, reliability."""

from collections.abc import Iterable, Mapping, Sequence

from neuron_opsd.report import figures, scatter, tables
from neuron_opsd.report.blocks import Block, Bullets, Figure, Figures, Paragraph, Prose, Table
from neuron_opsd.report.compared import (
    ComparedCell,
    ComparedMetric,
    Comparison,
    HarnessFigure,
    MethodMean,
    Place,
    TemplateShare,
)
from neuron_opsd.report.forest import Row, forest
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markup import Better, Worse
from neuron_opsd.report.parts import folded, listed
from neuron_opsd.results import Bin, Estimate

PLACES: Mapping[Place, str] = {"in": "in-domain", "cross": "cross-domain"}


def comparison_section(inputs: ReportInputs) -> list[Block]:
    """Everything about the methods, its table first. Nothing where there is no comparison."""
    comparison = inputs.comparison
    if not comparison:
        return []
    blocks: list[Block] = [
        Paragraph(_lead(comparison), is_lead=True),
        _methods_table(comparison),
        Figures(_forests(comparison), note=KEY),
    ]
    blocks += [Bullets(comparison.notes)] if comparison.notes else []
    scatters = [_scatter(comparison, place) for place in PLACES]
    blocks.append(Figures([figure for figure in scatters if figure]))
    blocks += [folded(_grid(comparison, metric)) for metric in comparison.metrics]
    labels = {method.name: method.label for method in comparison.methods}
    if comparison.harness:
        blocks.append(_harness_table(comparison.harness, labels))
    if comparison.templates:
        blocks.append(_templates_table(comparison.templates, labels))
    for place, where in PLACES.items():
        diagrams = _reliability(comparison, place)
        if diagrams:
            blocks.append(Figures(diagrams, f"Reliability of all methods, {where}"))
    return blocks


KEY = (
    "Grey: the base model. Coloured: the others. Lines: 95% intervals. The numbers at the right: the difference from "
    "the base model, in green or red where a change was shown."
)


def _lead(comparison: Comparison) -> Prose:
    """Who is better than the base model, and who is worse, in one sentence."""
    labels = {method.name: method.label for method in comparison.methods}
    names = {metric.name: metric.label for metric in comparison.metrics}
    told: dict[str, dict[str, list[str]]] = {"better": {}, "worse": {}}
    for mean in comparison.means:
        for metric, marks in mean.marks.items():
            for judgement in told:
                if f"{judgement} than base" in marks:
                    where = f"{names[metric]} {PLACES[mean.place]}"
                    told[judgement].setdefault(labels[mean.method], []).append(where)
    parts: list[str] = []
    for judgement, mark in (("better", Better("better")), ("worse", Worse("worse"))):
        for label, where in told[judgement].items():
            parts += [
                f"{', ' if parts else 'Against the base model, '}{label} is",
                mark,
                f"in {listed(where)}",
            ]
    return (*parts, ".") if parts else "No method is shown to differ from the base model."


def _methods_table(comparison: Comparison) -> Table:
    """A row for each method and place. The number in front is that of the scatter."""
    means = {(mean.method, mean.place): mean for mean in comparison.means}
    names = {metric.name: metric.label for metric in comparison.metrics}
    rows = [
        [
            f"{index} {method.label}",
            where,
            *(_value(means[method.name, place].metrics, metric.name) for metric in comparison.metrics),
            _verdict(means[method.name, place], names),
            method.note,
        ]
        for index, method in enumerate(comparison.methods, 1)
        for place, where in PLACES.items()
        if (method.name, place) in means
    ]
    columns = ["Method", "Tested", *names.values(), "Verdict", "Remark"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    note = (
        "In brackets: 95% intervals. The verdict is against the base model, in brackets the figures that it is about. "
        "Methods that tie share no best."
    )
    return Table("Methods", columns, rows, note, num_text_columns=2)


def _verdict(mean: MethodMean, names: Mapping[str, str]) -> str:
    """Each mark with the figures that have it: "better than base (Avg@8, Maj@8)"."""
    groups: dict[str, list[str]] = {}
    for metric, marks in mean.marks.items():
        for mark in marks:
            groups.setdefault(mark, []).append(names[metric])
    return "; ".join(f"{mark} ({', '.join(own)})" for mark, own in groups.items())


def _forests(comparison: Comparison) -> list[Figure]:
    """A picture for each place and figure, with a row for each method."""
    labels = {method.name: method.label for method in comparison.methods}
    made: list[Figure] = []
    for place, where in PLACES.items():
        means = [mean for mean in comparison.means if mean.place == place]
        for metric in comparison.metrics:
            rows = [
                _row(labels[mean.method], mean, metric.name) for mean in means if metric.name in mean.metrics
            ]
            if rows:
                title = f"{metric.label}, {where}"
                better = "" if metric.better == "neither" else f" {metric.better.capitalize()} is better."
                name = f"methods-{place}-{figures.identifier(metric.name)}"
                made.append(
                    forest(name, title, rows, label=metric.label, conclusion=_conclusion(rows) + better)
                )
    return made


def _row(label: str, mean: MethodMean, metric: str) -> Row:
    marks = " ".join(mean.marks.get(metric, ()))
    judgement = next((word for word in ("better", "worse") if f"{word} than base" in marks), "")
    change = mean.differences.get(metric)
    told = tables.difference_text(change) if change else ""
    class_ = "trained" if change or mean.method != "base" else "base"
    return Row(label, ((class_, mean.metrics[metric]),), told, judgement)


def _conclusion(rows: Sequence[Row]) -> str:
    told = [
        f"{word} than base: {listed([row.label for row in rows if row.judgement == word])}"
        for word in ("better", "worse")
        if any(row.judgement == word for row in rows)
    ]
    said = "; ".join(told) or "no sure difference from base"
    return f"{said[:1].upper()}{said[1:]}."


def _grid(comparison: Comparison, metric: ComparedMetric) -> Table:
    """One metric: a row for each method and training domain, a column for each test domain."""
    targets = list(dict.fromkeys(cell.target for cell in comparison.cells))
    rows: list[list[str]] = []
    for method in comparison.methods:
        cells = [cell for cell in comparison.cells if cell.method == method.name]
        for source in dict.fromkeys(cell.source for cell in cells):
            found = {cell.target: cell for cell in cells if cell.source == source}
            values = [
                _value(found[t].metrics, metric.name) if t in found else tables.NOT_DEFINED for t in targets
            ]
            seeds = max(cell.num_seeds for cell in found.values())
            rows.append([method.label, source or "not trained", f"{seeds}", *values])
    columns = ["Method", "Trained on", "Seeds", *targets]
    return Table(f"{metric.label} by training and test domain", columns, rows, num_text_columns=2)


def _harness_table(harness: Sequence[HarnessFigure], labels: Mapping[str, str]) -> Table:
    """What lm-evaluation-harness found: a row for each method and training domain, a column for each task's metric."""
    found = {(one.method, one.source, one.task, one.metric): one.value for one in harness}
    columns = list(dict.fromkeys((task, metric) for _, _, task, metric in found))
    rows: list[list[str]] = []
    for method, source in dict.fromkeys((method, source) for method, source, _, _ in found):
        values = [found.get((method, source, task, metric)) for task, metric in columns]
        told = [tables.NOT_DEFINED if value is None else f"{value:.3f}" for value in values]
        rows.append([labels[method], source or "not trained", *told])
    names = [f"{task}, {metric}" for task, metric in columns]
    note = "Its own wording and scoring, on the tasks that it was given; means over the seeds."
    return Table("lm-evaluation-harness", ["Method", "Trained on", *names], rows, note, num_text_columns=2)


def _templates_table(templates: Sequence[TemplateShare], labels: Mapping[str, str]) -> Table:
    """Share of demonstrations of the question's own template, for each method that demonstrates."""
    shares = {(share.method, share.source): share for share in templates}
    sources = list(dict.fromkeys(share.source for share in templates))
    rows: list[list[str]] = []
    for name in dict.fromkeys(share.method for share in templates):
        found = [shares.get((name, source)) for source in sources]
        rows.append([labels[name], *(_share(row) for row in found)])
    note = "In brackets: of random questions. Of one template are questions that open alike, numbers and names masked."
    return Table("Demonstrations of the question's own template", ["Method", *sources], rows, note)


def _share(share: TemplateShare | None) -> str:
    return tables.NOT_DEFINED if share is None else f"{share.value:.0%} ({share.by_chance:.0%})"


def _scatter(comparison: Comparison, place: Place) -> Figure | None:
    """Accuracy against calibration error of every method that has both."""
    labels = {metric.name: metric.label for metric in comparison.metrics}
    means = {mean.method: mean.metrics for mean in comparison.means if mean.place == place}
    points = [
        (index, (method.label, means[method.name]["avg"], means[method.name]["ece"]))
        for index, method in enumerate(comparison.methods, 1)
        if {"avg", "ece"} <= means.get(method.name, {}).keys()
    ]
    if not points:
        return None
    return scatter.methods(
        f"methods-{place}", points, where=PLACES[place], labels=(labels["avg"], labels["ece"])
    )


def _reliability(comparison: Comparison, place: Place) -> list[Figure]:
    """A diagram for each method and confidence, the bins of its cells put together."""
    drawn: list[Figure] = []
    for index, method in enumerate(comparison.methods, 1):
        own = [cell for cell in comparison.cells if cell.method == method.name]
        diagrams = [cell.reliability for cell in own if _is_at(cell, place)]
        class_ = "trained" if any(cell.source for cell in own) else "base"
        for kind in dict.fromkeys(kind for diagram in diagrams for kind in diagram):
            bins = pooled(diagram[kind] for diagram in diagrams if kind in diagram)
            name = f"methods-{place}-{index}-{figures.identifier(kind)}"
            what = f"of {method.label}, {PLACES[place]}"
            confidence = kind.replace("_", " ")
            drawn.append(figures.reliability(name, bins, what=what, confidence=confidence, class_=class_))
    return drawn


def _is_at(cell: ComparedCell, place: Place) -> bool:
    """A model that was not trained has no domain of its own: its cells count as in-domain."""
    is_in = cell.source is None or cell.source == cell.target
    return is_in == (place == "in")


def pooled(diagrams: Iterable[Sequence[Bin]]) -> tuple[Bin, ...]:
    """Bins of several diagrams added up: counts summed, confidence and accuracy weighted by them."""
    made: list[Bin] = []
    for group in zip(*diagrams, strict=True):
        count = sum(one.count for one in group)
        stated = sum(one.confidence * one.count for one in group if one.confidence is not None)
        right = sum(one.accuracy * one.count for one in group if one.accuracy is not None)
        made.append(
            Bin(
                low=group[0].low,
                high=group[0].high,
                count=count,
                confidence=stated / count if count else None,
                accuracy=right / count if count else None,
            )
        )
    return tuple(made)


def _value(metrics: Mapping[str, Estimate], name: str) -> str:
    return tables.interval_text(metrics[name]) if name in metrics else tables.NOT_DEFINED
