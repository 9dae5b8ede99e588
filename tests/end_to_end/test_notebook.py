"""The notebook in examples/ runs from its first cell to its last, on a tiny model."""

import json
import os
import sys
from pathlib import Path

import pytest

from end_to_end.tiny_run import SMALL

NOTEBOOK = Path(__file__).parents[2] / "examples" / "improve_your_model.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_the_report(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra `dev` has nbclient")
    nbclient = pytest.importorskip("nbclient")
    specification = {"display_name": "this Python", "language": "python"}
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernels = tmp_path / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text(json.dumps(specification | {"argv": command}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MODEL", str(tiny_model_folder))
    monkeypatch.setenv("SETTINGS", " ".join(SMALL))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # kept without what a run printed
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "48 questions of 48 rows" in printed
    assert "likely to help" in printed
    (shown,) = notebook.cells[-2].outputs
    assert "<iframe srcdoc=" in shown["data"]["text/html"]
    assert (tmp_path / "runs/notebook/model/README.md").is_file()
