"""The table of mutants stands on today's code and tests; `make mutants` tries them."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("mutants")


def test_each_mutant_changes_text_that_stands_there_once(mutants: ModuleType) -> None:
    found = mutants.read_mutants()
    assert len({mutant.name for mutant in found}) == len(found)
    for mutant in found:
        text = mutant.mutated()
        if mutant.file.endswith(".py"):
            compile(text, mutant.file, "exec")


def test_each_mutant_names_tests_that_there_are(mutants: ModuleType) -> None:
    for mutant in mutants.read_mutants():
        for test in mutant.tests.split():
            file, _, name = test.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert f"def {name.partition('[')[0]}" in text, f"{mutant.name}: {test}"


def test_samples_go_round(mutants: ModuleType) -> None:
    found = mutants.read_mutants()
    killed = {mutant.name for mutant in found if not mutant.survives}
    lots = [mutants.chosen(found, 8, seed) for seed in range(100, 100 - (-len(killed) // 8))]
    assert {mutant.name for lot in lots for mutant in lot} == killed
    assert mutants.chosen(found, 8, 7) == mutants.chosen(found, 8, 7)
