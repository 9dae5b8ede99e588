"""The table of mutants stands on today's code; `make mutants` tries them."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_each_mutant_changes_text_that_stands_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    mutants = importlib.import_module("mutants")
    found = mutants.read_mutants()
    assert len({mutant.name for mutant in found}) == len(found)
    for mutant in found:
        text = mutant.mutated()
        if mutant.file.endswith(".py"):
            compile(text, mutant.file, "exec")
