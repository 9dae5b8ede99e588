"""A comparison on disk: CSV, LaTeX and Markdown tables, wall times apart, and the report page.

COMPARE/comparison.json   the plan: recipes, model, questions, seeds, steps, overrides
COMPARE/questions/        each domain's questions, split once for all cells
COMPARE/cells/RECIPE/SOURCE/seed-N/   one run; cell.json when it is finished, error.json when it failed
COMPARE/table.csv         a row for each recipe, place and metric, with its difference from base
COMPARE/grid.csv          a row for each recipe, source, target and metric
COMPARE/templates.csv     by recipe and source: the share of demonstrations of the question's own template
COMPARE/harness.csv       by recipe, source, task and metric: what lm-evaluation-harness found (`neuron-opsd harness`)
COMPARE/table.md, table.tex
COMPARE/timings.csv       wall time of each cell's stages; these alone differ between equal comparisons
COMPARE/report.html, report.md
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neuron_opsd.comparison.gather import gather
from neuron_opsd.comparison.plan import BASE, Cell, Plan, cell_folder
from neuron_opsd.comparison.table import PLACES, Table
from neuron_opsd.config import USES_GOLD
from neuron_opsd.report import ReportInputs, write_report
from neuron_opsd.store.files import write_text
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.text.escape import csv_cell, markdown_text, tex_comment, tex_text

HEADINGS = {"in": "in", "cross": "cross"}


def write_comparison(plan: Plan, cells: Sequence[Cell], folder: Path, notes: Sequence[str]) -> bool:
    """Write every table of what is finished by now; False where nothing is."""
    _write_timings(cells, folder)
    found = gather(plan, cells, folder)
    if not found.answers:
        return False
    table = Table(plan, found)
    rows, said = table.rows(), [*how_to_read(plan), *notes]
    write_text(folder / "table.csv", _csv([_flat(row, table) for row in rows]))
    write_text(folder / "grid.csv", _csv(_grid(table)))
    if shares := found.template_rows(table.methods):
        write_text(
            folder / "templates.csv", _csv([{**row, "method": table.label(row["method"])} for row in shares])
        )
    if scores := found.harness_rows(table.methods):
        write_text(
            folder / "harness.csv", _csv([{**row, "method": table.label(row["method"])} for row in scores])
        )
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


def _flat(row: Mapping[str, Any], table: Table) -> dict[str, Any]:
    change = row["difference"] or {"value": None, "low": None, "high": None}
    return {
        "method": table.label(row["method"]),
        **{name: row[name] for name in ("place", "metric", "value", "low", "high", "seeds_sd")},
        **{
            f"difference_{end}" if end != "value" else "difference": change[end]
            for end in ("value", "low", "high")
        },
        **{name: row[name] for name in ("p", "p_holm")},
        "marks": "; ".join(row["marks"]),
        **table.cost(row["method"]),
        "note": table.note(row["method"]),
    }


def _grid(table: Table) -> list[dict[str, Any]]:
    return [
        {
            "method": table.label(cell["method"]),
            **{name: cell[name] for name in ("source", "target", "num_seeds")},
            "metric": metric,
            **values,
        }
        for cell in table.report([])["cells"]
        for metric, values in cell["metrics"].items()
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: csv_cell(value) for key, value in row.items()} for row in rows])
    return buffer.getvalue()


def _body(table: Table, rows: Iterable[Mapping[str, Any]], number: Any) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the one table: a row for each recipe, also for one of which nothing is finished."""
    by_key = {(row["method"], row["place"], row["metric"]): row for row in rows}
    columns = [
        (place, metric)
        for metric in table.metrics
        for place in PLACES
        if _is_there(by_key, place, metric.name)
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
        cells = [number(by_key.get((method, place, metric.name))) for place, metric in columns]
        cost = table.cost(method)
        tokens = [f"{value:,}" if method != BASE else "0" for value in cost.values()]
        body.append([table.label(method), *cells, *tokens, table.note(method)])
    return header, body


def _is_there(by_key: Mapping[tuple[str, str, str], Any], place: str, metric: str) -> bool:
    return any(key[1:] == (place, metric) for key in by_key)


SIGNS = {"best": "*", "best within noise": "~", "better than base": "+", "worse than base": "-"}


class Figure(str):
    """A cell that we wrote: a number with its marks, which no format escapes but TeX."""

    __slots__ = ()


def _text(row: Mapping[str, Any] | None) -> Figure:
    if row is None:
        return Figure("n/a")
    value = f"{row['value']:.3f}{''.join(SIGNS[mark] for mark in row['marks'])}"
    change = row["difference"]
    if change is None:
        return Figure(value)
    ends = "" if change["low"] is None else f" [{change['low']:+.3f}, {change['high']:+.3f}]"
    return Figure(f"{value} ({change['value']:+.3f}{ends})")


KEY = (
    "* best, ~ best within noise, + better than base, - worse than base. "
    "In brackets: difference from base, 95 % interval."
)


def markdown(table: Table, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """The table for people."""
    header, body = _body(table, rows, _text)
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
        [table.label(row["method"]), row["source"], f"{row['value']:.0%}", f"{row['by_chance']:.0%}"]
        for row in table.found.template_rows(table.methods)
    ]
    if shares:
        header = ["Recipe", "Source", "Share", "Of random questions"]
        parts += ["## Demonstrations of the question's own template", "", *_lines(header, shares), ""]
    scores = [
        [
            table.label(row["method"]),
            row["source"] or "not trained",
            row["task"],
            row["metric"],
            f"{row['value']:.3f}",
        ]
        for row in table.found.harness_rows(table.methods)
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


def latex(table: Table, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """The table for a paper, with booktabs."""
    header, body = _body(table, rows, _text)
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
