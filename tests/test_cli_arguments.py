"""What was typed is neither dropped nor misread, and what is wrong with it is said."""

from pathlib import Path

import pytest
import typer

from neuron_opsd.cli import app
from neuron_opsd.cli_arguments import refuse_repeated, with_fit_value
from neuron_opsd.config import load_config
from neuron_opsd.early_checks.trainer import check_trainer
from neuron_opsd.errors import ConfigError
from neuron_opsd.store.run_folder import RunFolder


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["run", "r", "--fit"], ["run", "r", "--fit", "free"]),
        (["--fit", "seed=1"], ["--fit", "free", "seed=1"]),
        (["--fit", "24GB", "seed=1"], ["--fit", "24GB", "seed=1"]),
        (["--fit", "24", "seed=1"], ["--fit", "24", "seed=1"]),  # no size, and not a setting either
        (["--fit", "24gigs"], ["--fit", "24gigs"]),
        (["run", "r"], ["run", "r"]),
    ],
)
def test_the_size_after_fit(typed: list[str], read: list[str]) -> None:
    assert with_fit_value(typed) == read


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["questions", "--check", "a.csv", "--check", "b.csv"], r"--check is given 2 times \(a.csv, b.csv\)"),
        (
            ["run", "auto", "--model=m", "--model", "n"],
            r"--model is given 2 times \(m, n\), and takes one value",
        ),
        (["--verbose", "run", "auto", "--output", "x", "--output", "x"], "--output is given 2 times"),
        (["run", "auto", "--answers", "a", "--answers", "b", "--dry-run", "--dry-run"], None),
        (["run", "auto", "--model", "m", "--", "--model"], None),
        (["--help"], None),
    ],
)
def test_an_option_that_is_given_twice(typed: list[str], message: str | None) -> None:
    command = typer.main.get_command(app)
    if message is None:
        refuse_repeated(command, typed)
        return
    with pytest.raises(ConfigError, match=message):
        refuse_repeated(command, typed)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["selection.fraction", "=", "0.3"],
            r"'selection.fraction' is no setting. Write section.key=value without spaces",
        ),
        (["questions.fields={question:", "Frage}"], "Put quotes around a setting that has spaces"),
    ],
)
def test_a_setting_that_the_shell_has_cut(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("neuron_opsd", overrides=overrides, values={"model.name": "m", "questions.path": "q"})


@pytest.mark.parametrize(
    "text", ["Question;A;B\nWhy?;x;y\n", '{"question": "a"}\n{"question": "b"}\n', "- one\n"]
)
def test_questions_that_are_given_as_a_recipe(tmp_path: Path, text: str) -> None:
    file = tmp_path / "biology.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"biology.csv .*Questions are given apart: .*--questions FILE"):
        load_config(str(file))


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text("")
    with pytest.raises(Exception, match=r"thesis.txt is not a run folder: it is a file"):
        RunFolder.open(file)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("learning_rat", "training.learning_rate"), ("weight_decai", "training.trainer.weight_decay")],
)
def test_a_misspelt_setting_of_the_trainer(name: str, meant: str) -> None:
    config = load_config(
        "neuron_opsd", values={"model.name": "m", "questions.path": "q", f"training.trainer.{name}": 0.1}
    )
    with pytest.raises(
        ConfigError, match=rf"Unknown setting 'training.trainer.{name}'. Did you mean {meant}\?"
    ):
        check_trainer(config)
