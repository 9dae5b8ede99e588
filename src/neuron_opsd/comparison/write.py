"""A comparison on disk: CSV, LaTeX and Markdown tables, wall times apart, and the report page.

COMPARE/comparison.json   the plan: recipes, model, questions, seeds, steps, overrides
COMPARE/questions/        each domain's questions, split once for all cells
COMPARE/cells/RECIPE/SOURCE/seed-N/   one run, cell.json when it is finished, error.json when it failed
COMPARE/table.csv         a row for each recipe, place and metric, with its difference from base
COMPARE/grid.csv          a row for each recipe, source, target and metric
COMPARE/templates.csv     by recipe and source: the share of demonstrations of the question's own template
COMPARE/harness.csv       by recipe, source, task and metric: what lm-evaluation-harness found (`neuron-opsd harness`)
COMPARE/table.md, table.tex
COMPARE/timings.csv       wall time of each cell's stages. These alone differ between equal comparisons
COMPARE/report.html, report.md
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from neuron_opsd.comparison.gather import gather
from neuron_opsd.comparison.plan import BASE, Cell, Plan, cell_folder
from neuron_opsd.comparison.table import BEYOND, PLACES, Row, Table
from neuron_opsd.config import USES_GOLD
from neuron_opsd.report import ReportInputs, write_report
from neuron_opsd.results import Estimate
from neuron_opsd.store.files import write_text
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.text.escape import csv_cell, markdown_text, tex_comment, tex_text

HEADINGS = {"in": "in", "cross": "cross"}
CsvRow = Mapping[str, object]


def write_comparison(plan: Plan, cells: Sequence[Cell], folder: Path, notes: Sequence[str]) -> bool:
    """Write every table of what is finished by now. False where nothing is."""
    _write_timings(cells, folder)
    found = gather(plan, cells, folder)
    if not found.answers:
        return False
    table = Table(plan, found)
    rows, said = table.rows(), [*how_to_read(plan), *notes]
    write_text(folder / "table.csv", _csv([_flat(row, table) for row in rows]))
    write_text(folder / "grid.csv", _csv(_grid(table)))
    for name, records in (
        ("templates.csv", found.template_shares(table.methods)),
        ("harness.csv", found.harness_figures(table.methods)),
    ):
        if records:
            labelled = [asdict(record) | {"method": table.label(record.method)} for record in records]
            write_text(folder / name, _csv(labelled))
    write_text(folder / "table.md", markdown(table, rows, said))
    write_text(folder / "table.tex", latex(table, rows, said))
    config = {"recipe": "comparison", "model": {"name": plan.model}, "comparison": asdict(plan)}
    write_report(ReportInputs(config=config, comparison=table.report(said)), folder)
    return True


def how_to_read(plan: Plan) -> list[str]:
    """What every reader must know of the numbers."""
    seeds = ", ".join(map(str, plan.seeds))
    has_bound = any(map(plan.uses_gold, plan.recipes))
    return [
        f"{_budget(plan)} Seeds: {seeds}.",
        "In-domain: tested on the domain trained on; cross-domain: on the others. Means over domains, each once.",
        "Intervals (95 %) are paired over questions. A mark against base is a two-sided bootstrap test at 5 %, by Holm "
        "over the recipes of each column. Best within noise: the interval of its difference from the best holds 0.",
        "Avg minus base Maj: how much more often one answer is right than the majority answer that the base model has "
        "without training. + where the interval is above 0, - where it is below. Base with votes is that majority, as "
        "a row: each of its answers takes as many samples as votes. It is no candidate, and has no marks.",
        "Tokens are a cell's, as if it ran alone: rollouts that recipes share count for each of them.",
        *(
            [f"{USES_GOLD}: such a recipe is no candidate. It has no marks, and counts in those of none."]
            * has_bound
        ),
        "ECE is that of vote shares; at few questions a perfectly calibrated model has one well above 0 too.",
    ]


def _budget(plan: Plan) -> str:
    if plan.num_tokens is None:
        return (
            f"Budget: {plan.num_steps} optimiser steps for every recipe that trains; how many tokens those take is a "
            "recipe's own, and stands beside it."
        )
    return (
        f"Budget: {plan.num_tokens:,} tokens for every recipe that trains: it stops with the step at which the tokens "
        "that it generated, for its rollouts and in training, and those that carried loss together reach them. "
        "Prompts, and what a teacher reads, count nothing; recipes without training have no budget."
    )


def _flat(row: Row, table: Table) -> CsvRow:
    change = row.difference or Estimate(None, None, None)
    return {
        "method": table.label(row.method),
        "place": row.place,
        "metric": row.metric,
        **asdict(row.found),
        "seeds_sd": row.seeds_sd,
        "difference": change.value,
        "difference_low": change.low,
        "difference_high": change.high,
        "p": row.p,
        "p_holm": row.p_holm,
        "marks": "; ".join(row.marks),
        **table.cost(row.method),
        "note": table.note(row.method),
    }


def _grid(table: Table) -> list[CsvRow]:
    return [
        {
            "method": table.label(cell.method),
            "source": cell.source,
            "target": cell.target,
            "num_seeds": cell.num_seeds,
            "metric": metric,
            **asdict(found),
        }
        for cell in table.report([]).cells
        for metric, found in cell.metrics.items()
    ]


def _csv(rows: Sequence[CsvRow]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: csv_cell(value) for key, value in row.items()} for row in rows])
    return buffer.getvalue()


def _body(table: Table, rows: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the one table: a row for each recipe, also for one of which nothing is finished."""
    by_key = {(row.method, row.place, row.metric): row for row in rows}
    there = {(place, metric) for _, place, metric in by_key}
    columns = [
        (place, metric) for metric in table.metrics for place in PLACES if (place, metric.name) in there
    ]
    header = [
        "Recipe",
        *(f"{m.label} {HEADINGS[p]}" for p, m in columns),
        "Steps",
        "Generated",
        "Trained",
        "Remark",
    ]
    body = []
    for method in table.methods:
        cells = [_text(by_key.get((method, place, metric.name))) for place, metric in columns]
        cost = table.cost(method)
        tokens = [f"{value:,}" if method != BASE else "0" for value in cost.values()]
        body.append([table.label(method), *cells, *tokens, table.note(method)])
    return header, body


SIGNS = {
    "best": "*",
    "best within noise": "~",
    "better than base": "+",
    "worse than base": "-",
    "beyond the base's majority": "+",
    "below the base's majority": "-",
}


class Figure(str):
    """A cell that we wrote: a number with its marks, which no format escapes but TeX."""

    __slots__ = ()


def _text(row: Row | None) -> Figure:
    if row is None:
        return Figure("n/a")
    value = f"{row.found.value:.3f}{''.join(SIGNS[mark] for mark in row.marks)}"
    change = row.difference
    if change is None:
        own = row.found
        return Figure(value if row.metric != BEYOND or own.low is None else f"{value}{_ends(own)}")
    return Figure(f"{value} ({change.value:+.3f}{_ends(change)})")


def _ends(found: Estimate) -> str:
    return "" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]"


KEY = (
    "* best, ~ best within noise, + better than base, - worse than base. "
    "In brackets: difference from base, 95 % interval."
)


def markdown(table: Table, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table for people."""
    header, body = _body(table, rows)
    parts = [
        "# Recipes compared",
        "",
        *_lines(header, body),
        "",
        KEY,
        "",
        *(f"- {markdown_text(note)}" for note in notes),
        "",
    ]
    shares = [
        [table.label(share.method), share.source, f"{share.value:.0%}", f"{share.by_chance:.0%}"]
        for share in table.found.template_shares(table.methods)
    ]
    if shares:
        header = ["Recipe", "Source", "Share", "Of random questions"]
        parts += ["## Demonstrations of the question's own template", "", *_lines(header, shares), ""]
    scores = [
        [
            table.label(one.method),
            one.source or "not trained",
            one.task,
            one.metric,
            f"{one.value:.3f}",
        ]
        for one in table.found.harness_figures(table.methods)
    ]
    if scores:
        header = ["Recipe", "Source", "Task", "Metric", "Value"]
        parts += ["## lm-evaluation-harness", "", *_lines(header, scores), ""]
    return "\n".join(parts)


def _lines(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    escaped = [
        [cell if isinstance(cell, Figure) else markdown_text(cell) for cell in line]
        for line in [header, *body]
    ]
    lines = ["| " + " | ".join(line) + " |" for line in escaped]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def latex(table: Table, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table for a paper, with booktabs."""
    header, body = _body(table, rows)
    lines = [" & ".join(map(tex_text, line)) + r" \\" for line in [header, *body]]
    return "\n".join(
        [
            tex_comment(" ".join(notes)),
            r"\begin{tabular}{l" + "r" * (len(header) - 2) + "l}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            tex_comment(KEY),
            "",
        ]
    )


def _write_timings(cells: Sequence[Cell], folder: Path) -> None:
    rows = [
        {
            "method": cell.recipe,
            "source": cell.source,
            "seed": cell.seed,
            **{name: row.get(name) for name in ("stage", "seconds", "num_items", "num_tokens")},
        }
        for cell in cells
        for row in RunFolder(cell_folder(folder, cell)).timings()
    ]
    if rows:
        write_text(folder / "timings.csv", _csv(rows))
