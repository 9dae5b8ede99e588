"""Runs the cells of a comparison, one after another. One that fails is named and does not stop the others."""

import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from neuron_opsd.comparison.plan import Cell, Domain, Plan, answers_digest, cell_config, cell_folder
from neuron_opsd.config import Config
from neuron_opsd.early_checks import check_early
from neuron_opsd.errors import NeuronOpsdError
from neuron_opsd.model.defaults import resolve
from neuron_opsd.pipeline import run_stages
from neuron_opsd.redaction import redact
from neuron_opsd.results import Results
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import read_json
from neuron_opsd.store.run_folder import HARNESS_RESULTS, RESULTS, RunFolder
from neuron_opsd.store.stage_folder import fingerprint_of

logger = logging.getLogger(__name__)

FINISHED, FAILED, NOT_RUN = "finished", "failed", "not run"


def run_cells(
    plan: Plan,
    domains: Sequence[Domain],
    cells: Sequence[Cell],
    folder: Path,
    *,
    on_cell: Callable[[], object] = lambda: None,
) -> None:
    """Run what is not finished. `on_cell` is called after each, so that the tables are those of what is there."""
    digests = answers_digest(plan)
    for number, cell in enumerate(cells, 1):
        where = (
            f"cell {number} of {len(cells)}: {cell.recipe}, source {cell.source or 'none'}, seed {cell.seed}"
        )
        path = cell_folder(folder, cell)
        try:
            config = cell_config(plan, domains, cell)
            mark = {
                "finished": fingerprint_of({"config": config.model_dump(mode="json"), "answers": digests})
            }
            if read_json(path / "cell.json") == mark and status(path)[0] == FINISHED:
                logger.info("%s: finished before", where)
                continue
            logger.info("%s", where)
            _run(config, path, mark)
        except NeuronOpsdError as error:
            _note_failure(path, where, error)
        except Exception as error:
            logger.exception("%s", where)
            _note_failure(path, where, error)
        gc.collect()  # here, where no exception holds a failed cell's model any more
        torch.cuda.empty_cache()
        on_cell()


def _run(config: Config, path: Path, mark: dict[str, str]) -> None:
    config = resolve(config)
    check_early(config)
    folder = RunFolder.create(path)
    (path / "error.json").unlink(missing_ok=True)
    (path / "cell.json").unlink(missing_ok=True)
    folder.remove_result(HARNESS_RESULTS)  # of the model that was here before
    with folder.locked():
        folder.write_config(config)
        run_stages(Run(folder))
        folder.write_json("cell.json", mark)


def _note_failure(path: Path, where: str, error: Exception) -> None:
    message = redact(f"{type(error).__name__}: {error}")
    logger.error("%s failed: %s", where, message)
    RunFolder.create(path).write_json("error.json", {"error": message})


def status(path: Path) -> tuple[str, str]:
    """(finished, failed or not run) and the error."""
    error = read_json(path / "error.json") if path.is_dir() else None
    if error is not None:
        return FAILED, str(error.get("error"))
    results = RunFolder(path).load_result(RESULTS, Results)
    is_finished = (path / "cell.json").is_file() and results is not None
    return (FINISHED, "") if is_finished else (NOT_RUN, "")
