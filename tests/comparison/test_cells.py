"""Cells of a comparison, one after another."""

import gc
import weakref
from pathlib import Path

import pytest

from neuron_opsd.comparison.cells import FAILED, run_cells, status
from neuron_opsd.comparison.plan import Cell, Plan, cell_folder
from neuron_opsd.errors import DataError


class Model:
    """What refers to itself, as a trainer and its student do."""

    def __init__(self) -> None:
        self.itself = self


def test_a_failed_cells_model_is_freed_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("")
    plan = Plan(recipes=("base",), model="m", questions=("q",), answers=(str(tmp_path / "key"),))
    cells = [Cell("base", None, seed) for seed in plan.seeds]
    models: list[weakref.ref[Model]] = []

    def fails(*settings: object) -> None:
        model = Model()
        models.append(weakref.ref(model))
        raise DataError(f"out of memory with {len(models)} models")

    def all_are_gone() -> None:
        assert [model() for model in models] == [None] * len(models)

    monkeypatch.setattr("neuron_opsd.comparison.cells.cell_config", fails)
    gc.disable()  # what is freed is freed by the comparison, not by chance
    try:
        run_cells(plan, (), cells, tmp_path, on_cell=all_are_gone)
    finally:
        gc.enable()
    assert len(models) == len(cells) == 3
    assert {status(cell_folder(tmp_path, cell))[0] for cell in cells} == {FAILED}
