"""Two runs through the command line: the second takes what the first has made."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuron_opsd.cli import app
from neuron_opsd.store.files import file_digest


def run(command: list[str], output: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    monkeypatch.setenv("NEURON_OPSD_STAGES", str(cache))
    outcome = CliRunner().invoke(app, [*command, "--output", str(output), "--until", "contexts", *more])
    assert outcome.exception is None, outcome.output


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): file_digest(path)
        for path in sorted(folder.rglob("*.*"))
        if path.is_file()
    }


def test_another_selection_reuses_rollouts_and_neurons(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, cache = tmp_path / "first", tmp_path / "second", tmp_path / "cache"
    run(command, first, cache, monkeypatch)
    caplog.clear()
    caplog.set_level("INFO")
    run(command, second, cache, monkeypatch, "selection.fraction=0.6")
    taken = [
        record.message.split(":")[0] for record in caplog.records if "taken from the cache" in record.message
    ]
    assert taken == ["questions", "rollouts", "neurons"]
    for stage in taken:
        assert files(first / stage) == files(second / stage)
    assert files(first / "selection") != files(second / "selection")
    caplog.clear()
    run(command, first, cache, monkeypatch, "selection.fraction=0.6")
    messages = [record.message for record in caplog.records]
    assert "selection: recomputed, because selection.fraction was 0.4 and is 0.6" in messages
    assert any(text.startswith("selection: taken from the cache") for text in messages)


def test_another_temperature_reuses_questions_alone(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(command, tmp_path / "first", tmp_path / "cache", monkeypatch)
    caplog.clear()
    caplog.set_level("INFO")
    run(command, tmp_path / "second", tmp_path / "cache", monkeypatch, "rollouts.temperature=0.9")
    taken = [
        record.message.split(":")[0] for record in caplog.records if "taken from the cache" in record.message
    ]
    assert taken == ["questions"]
