"""`neuron-opsd compare`: from a plan to tables, cell by cell. The same command goes on where it stopped."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_opsd.comparison.cells import FINISHED, run_cells, status
from neuron_opsd.comparison.plan import (
    BASE,
    Plan,
    cell_folder,
    cells_of,
    list_domains,
    prepare_questions,
    read_plan,
)
from neuron_opsd.comparison.write import write_comparison
from neuron_opsd.errors import ConfigError, RunFolderError
from neuron_opsd.store.own_folder import check_claimable, claim
from neuron_opsd.store.run_folder import RunFolder

DEFAULT_RECIPES = (BASE, "base_context", "neuron_opsd", "random_selection", "random_context")


def compare_recipes(folder: Path, given: Mapping[str, Any]) -> str:
    """Run every unfinished cell, and write the tables after each.

    Args:
        folder: The comparison's own folder.
        given: Fields of `Plan`. What is left out is as the folder has it, or the default.

    Returns:
        The Markdown table, or a sentence on why there is none.

    Raises:
        NeuronOpsdError: what is wrong before any cell has run.
    """
    plan = plan_of(folder, given)
    claim(folder, "comparison")
    own = RunFolder(folder)
    with own.locked():
        domains, notes = prepare_questions(plan, folder)
        own.write_json("comparison.json", dataclasses.asdict(plan))
        cells = cells_of(plan, [domain.name for domain in domains])
        run_cells(plan, domains, cells, folder, on_cell=lambda: write_comparison(plan, cells, folder, notes))
        has_table = write_comparison(plan, cells, folder, notes)
    states = [status(cell_folder(folder, cell))[0] for cell in cells]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    if FINISHED not in states:
        errors = [error for cell in cells if (error := status(cell_folder(folder, cell))[1])]
        why = f" The first: {errors[0]}" if errors else ""
        raise RunFolderError(
            f"No cell of {folder} is finished, so there is no table: {counts}.{why} Fix what it names, and give the "
            "same command again."
        )
    where = f"{len(cells)} cells: {counts}. Page: {folder / 'report.html'}"
    if not has_table:
        return f"No finished cell has an answer to count, so there is no table. {len(cells)} cells: {counts}."
    return f"{(folder / 'table.md').read_text(encoding='utf-8')}\n{where}"


def plan_of(folder: Path, given: Mapping[str, Any]) -> Plan:
    """The folder's plan with what is given now. Base is always compared with.

    Raises:
        ConfigError: what is missing or wrong.
        RunFolderError: the folder holds something else.
    """
    check_claimable(folder, "comparison")
    saved = read_plan(folder)
    empty = Plan(recipes=DEFAULT_RECIPES, model="", questions=(), answers=())
    if "num_steps" in given and "num_tokens" in given:
        raise ConfigError("--steps and --tokens are both given. A budget is one or the other.")
    budget = {"num_tokens": None} if "num_steps" in given else {}
    plan = dataclasses.replace(saved or empty, **{**budget, **given})
    plan = dataclasses.replace(plan, recipes=tuple(dict.fromkeys((BASE, *plan.recipes))))
    plan.check()
    return plan


def describe_cells(folder: Path, given: Mapping[str, Any]) -> list[str]:
    """Every cell, its folder and what became of it. Nothing is written."""
    plan = plan_of(folder, given)
    cells = cells_of(plan, list_domains(plan))
    states = [status(cell_folder(folder, cell))[0] for cell in cells]
    return [
        f"{cell.recipe}, trained on {cell.source or 'nothing'}, seed {cell.seed}: {state}"
        for cell, state in zip(cells, states, strict=True)
    ]
