"""lm-evaluation-harness on every finished cell of a comparison. Its figures go into the tables."""

from pathlib import Path

from neuron_opsd.commands.harness import run_harness
from neuron_opsd.comparison.cells import FINISHED, status
from neuron_opsd.comparison.plan import cell_folder, cells_of, prepare_questions, read_plan
from neuron_opsd.comparison.write import write_comparison
from neuron_opsd.errors import RunFolderError
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import JsonDict
from neuron_opsd.store.own_folder import require_mark
from neuron_opsd.store.run_folder import RunFolder


def harness_of_cells(folder: Path, *, tasks: Path | None = None) -> str:
    """Score the base model once and each cell's, and write the tables. What is scored already is kept.

    Raises:
        RunFolderError: no comparison, or none of its cells is finished.
        NeuronOpsdError: as `run_harness`.
    """
    require_mark(folder, "comparison")
    plan = read_plan(folder)
    if plan is None:
        raise RunFolderError(f"{folder} holds no comparison.")
    with RunFolder(folder).locked():
        domains, notes = prepare_questions(plan, folder)
        cells = cells_of(plan, [domain.name for domain in domains])
        paths = [cell_folder(folder, cell) for cell in cells]
        finished = [path for path in paths if status(path)[0] == FINISHED]
        if not finished:
            raise RunFolderError(
                f"No cell of {folder} is finished. Run `neuron-opsd compare {folder}` first."
            )
        known: dict[str, JsonDict] = {}
        for path in finished:
            with RunFolder(path).locked():
                run_harness(Run(RunFolder(path)), tasks=tasks, known=known)
        write_comparison(plan, cells, folder, notes)
    return (folder / "table.md").read_text(encoding="utf-8")
