"""The section that compares many methods: tables, grids, accuracy against calibration error, reliability.

The schema is that of `ReportInputs.comparison`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neuron_opsd.report import figures, scatter, tables
from neuron_opsd.report.blocks import Block, Bullets, Figures, Table
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.parts import folded

PLACES = {"in": "in-domain", "cross": "cross-domain"}
MAIN = ("avg", "ece")  # their grids are open, those of other metrics folded
Row = Mapping[str, Any]


def comparison_section(inputs: ReportInputs) -> list[Block]:
    """Everything about the methods; nothing where there is no comparison."""
    comparison = inputs.comparison
    if not comparison:
        return []
    blocks: list[Block] = [Bullets(comparison["notes"])] if comparison.get("notes") else []
    blocks.append(_methods_table(comparison))
    drawn = [_scatter(comparison, place) for place in PLACES]
    blocks.append(Figures([figure for figure in drawn if figure]))
    for metric in comparison["metrics"]:
        grid = _grid(comparison, metric)
        blocks.append(grid if metric["name"] in MAIN else folded(grid))
    if comparison.get("harness"):
        blocks.append(_harness_table(comparison))
    if comparison.get("templates"):
        blocks.append(_templates_table(comparison))
    for place, where in PLACES.items():
        diagrams = _reliability(comparison, place)
        if diagrams:
            blocks.append(Figures(diagrams, f"Reliability of all methods, {where}"))
    return blocks


def _methods_table(comparison: Row) -> Table:
    """A row for each method and place; the number in front is that of the scatter."""
    summary = {(row["method"], row["place"]): row["metrics"] for row in comparison.get("summary", ())}
    rows = [
        [
            f"{index} {method['label']}",
            where,
            *(_value(summary[method["name"], place], metric["name"]) for metric in comparison["metrics"]),
            str(method.get("note") or ""),
        ]
        for index, method in enumerate(comparison["methods"], 1)
        for place, where in PLACES.items()
        if (method["name"], place) in summary
    ]
    columns = ["Method", "Tested", *(metric["label"] for metric in comparison["metrics"]), "Remark"]
    return Table("Methods", columns, rows, "In brackets: 95% intervals.", num_text_columns=2)


def _grid(comparison: Row, metric: Row) -> Table:
    """One metric: a row for each method and training domain, a column for each test domain."""
    targets = list(dict.fromkeys(cell["target"] for cell in comparison["cells"]))
    rows = []
    for method in comparison["methods"]:
        cells = [cell for cell in comparison["cells"] if cell["method"] == method["name"]]
        for source in dict.fromkeys(cell["source"] for cell in cells):
            found = {cell["target"]: cell for cell in cells if cell["source"] == source}
            values = [
                _value(found[t]["metrics"], metric["name"]) if t in found else tables.NOT_DEFINED
                for t in targets
            ]
            seeds = max(int(cell.get("num_seeds", 1)) for cell in found.values())
            rows.append([method["label"], source or "not trained", f"{seeds}", *values])
    columns = ["Method", "Trained on", "Seeds", *targets]
    return Table(f"{metric['label']} by training and test domain", columns, rows, num_text_columns=2)


def _harness_table(comparison: Row) -> Table:
    """What lm-evaluation-harness found: a row for each method and training domain, a column for each task's metric."""
    labels = {method["name"]: method["label"] for method in comparison["methods"]}
    found = {
        (row["method"], row["source"], row["task"], row["metric"]): row["value"]
        for row in comparison["harness"]
    }
    columns = list(dict.fromkeys(key[2:] for key in found))
    rows = []
    for method, source in dict.fromkeys(key[:2] for key in found):
        values = [found.get((method, source, *column)) for column in columns]
        told = [tables.NOT_DEFINED if value is None else f"{value:.3f}" for value in values]
        rows.append([labels[method], source or "not trained", *told])
    names = [f"{task}, {metric}" for task, metric in columns]
    note = "Its own wording and scoring, on the tasks that it was given; means over the seeds."
    return Table("lm-evaluation-harness", ["Method", "Trained on", *names], rows, note, num_text_columns=2)


def _templates_table(comparison: Row) -> Table:
    """Share of demonstrations of the question's own template, for each method that demonstrates."""
    labels = {method["name"]: method["label"] for method in comparison["methods"]}
    shares = {(row["method"], row["source"]): row for row in comparison["templates"]}
    sources = list(dict.fromkeys(row["source"] for row in comparison["templates"]))
    rows = []
    for name in dict.fromkeys(row["method"] for row in comparison["templates"]):
        found = [shares.get((name, source)) for source in sources]
        rows.append([labels[name], *(_share(row) for row in found)])
    note = "In brackets: of random questions. Of one template are questions that open alike, numbers and names masked."
    return Table("Demonstrations of the question's own template", ["Method", *sources], rows, note)


def _share(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return tables.NOT_DEFINED
    return f"{row['value']:.0%}" + ("" if row["by_chance"] is None else f" ({row['by_chance']:.0%})")


def _scatter(comparison: Row, place: str) -> Any:
    """Accuracy against calibration error of every method that has both, or None."""
    labels = {metric["name"]: metric["label"] for metric in comparison["metrics"]}
    summary = {
        row["method"]: row["metrics"] for row in comparison.get("summary", ()) if row["place"] == place
    }
    points = []
    for index, method in enumerate(comparison["methods"], 1):
        metrics = summary.get(method["name"], {})
        if all(metrics.get(name, {}).get("value") is not None for name in MAIN):
            points.append((index, (method["label"], metrics["avg"], metrics["ece"])))
    if not points:
        return None
    return scatter.methods(
        f"methods-{place}", points, where=PLACES[place], labels=(labels["avg"], labels["ece"])
    )


def _reliability(comparison: Row, place: str) -> list[Any]:
    """A diagram for each method and confidence, the bins of its cells put together."""
    drawn = []
    for index, method in enumerate(comparison["methods"], 1):
        cells = [
            cell["reliability"]
            for cell in comparison["cells"]
            if cell["method"] == method["name"] and cell.get("reliability") and _is_at(cell, place)
        ]
        for kind in dict.fromkeys(kind for cell in cells for kind in cell):
            bins = pooled(cell[kind] for cell in cells if kind in cell)
            name = f"methods-{place}-{index}-{figures.identifier(kind)}"
            what = f"of {method['label']}, {PLACES[place]}"
            class_ = (
                "trained"
                if any(c["source"] for c in comparison["cells"] if c["method"] == method["name"])
                else "base"
            )
            confidence = kind.replace("_", " ")
            drawn.append(figures.reliability(name, bins, what=what, confidence=confidence, class_=class_))
    return drawn


def _is_at(cell: Row, place: str) -> bool:
    """A model that was not trained has no domain of its own: its cells count as in-domain."""
    is_in = cell["source"] is None or cell["source"] == cell["target"]
    return is_in == (place == "in")


def pooled(diagrams: Iterable[Sequence[Row]]) -> list[dict[str, Any]]:
    """Bins of several diagrams added up: counts summed, confidence and accuracy weighted by them."""
    made = []
    for group in zip(*diagrams, strict=True):
        count = sum(entry["count"] for entry in group)
        filled = [entry for entry in group if entry["count"]]
        means = {
            key: sum(entry[key] * entry["count"] for entry in filled) / count if count else None
            for key in ("confidence", "accuracy")
        }
        made.append({"count": count, **means})
    return made


def _value(metrics: Row, name: str) -> str:
    return tables.interval_text(metrics[name]) if name in metrics else tables.NOT_DEFINED
