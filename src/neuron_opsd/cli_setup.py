"""The commands before a run: settings, recipes, and what a machine and a model allow. `cli` takes them in."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from neuron_opsd import cli_options as option
from neuron_opsd.cli_print import quieten_libraries, say, show_text
from neuron_opsd.config import list_recipes, load_config
from neuron_opsd.errors import ConfigError

setup = typer.Typer()


@setup.command()
def env() -> None:
    """Print versions and devices, for a bug report."""
    from neuron_opsd.model.environment import describe_environment

    say(json.dumps(describe_environment(), indent=2))


@setup.command()
def init(
    file: Annotated[Path, typer.Argument(help="The YAML file to write.")] = Path("settings.yaml"),
    overrides: option.Overrides = None,
    model: option.Model = None,
    questions: option.Questions = None,
    answers: option.Answers = None,
    goal: Annotated[
        str | None, typer.Option(help="method, small-model, position or trial.", show_default=False)
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What every stage is to fit: 24GB, or what is free.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take the defaults.")] = False,
) -> None:
    """Write a commented settings file for your model and questions, checked, with what a run takes."""
    from neuron_opsd.commands.init import GOALS, Wishes, check_name, write_settings

    check_name(file)
    quieten_libraries()
    may_ask = not yes and sys.stdin.isatty()

    def ask(given: str | None, flag: str, text: str, default: str | None) -> str:
        if given is not None:
            return given
        if may_ask:
            return typer.prompt(text, default=default)
        if default is None:
            raise ConfigError(f"{flag} is required where nothing is asked (--yes, or no terminal). Give it.")
        return default

    goals = "\n".join(f"  {name}: {goal.text}" for name, goal in GOALS.items())
    model = ask(model, "--model", "Model: a folder, a hub name or a .gguf file", None)
    questions = ask(questions, "--questions", "Questions: a JSONL, CSV, Parquet or Excel file", None)
    if (
        answers is None
        and (typed := ask(None, "--answers", "Gold answers, for evaluation alone (none: -)", "-")) != "-"
    ):
        answers = [typed]
    wishes = Wishes(
        model=model,
        questions=questions,
        answers=tuple(answers or ()),
        goal=ask(goal, "--goal", f"Goal:\n{goals}\nGoal", next(iter(GOALS))),
        overrides=tuple(overrides or ()),
        memory=ask(memory, "--memory", "Memory that a run may take, such as 24GB, or what is free", "free"),
    )
    for line in write_settings(wishes, file):
        show_text(line)


@setup.command()
def doctor(
    model: option.Model = None,
    place: Annotated[
        Path, typer.Option("--output", help="The folder in which runs are to be.", show_default=False)
    ] = Path(),
) -> None:
    """Look for what would stop a run here: packages, devices, disks, the hub, and a --model.

    Each finding has its remedy. The exit status is 1 if a run would stop, else 0, also with warnings.
    """
    from neuron_opsd.commands.doctor import PROBLEM, examine

    quieten_libraries()
    states: set[str] = set()
    for finding in examine(model, place):
        states.add(finding.state)
        say(finding.describe())
    if PROBLEM in states:
        raise typer.Exit(1)


@setup.command()
def settings(
    name: Annotated[
        str, typer.Argument(help="A section, or one setting. All of them without.", show_default=False)
    ] = "",
    as_schema: Annotated[
        bool, typer.Option("--schema", help="A JSON schema, with which editors complete and check a recipe.")
    ] = False,
    as_page: Annotated[bool, typer.Option("--markdown", help="The page docs/settings.md.")] = False,
) -> None:
    """List every setting with its type, default and meaning."""
    from neuron_opsd.commands.settings import as_markdown, describe_settings, schema_text

    if (as_schema or as_page) and (name or as_schema == as_page):
        raise ConfigError("--schema and --markdown each stand alone, for all settings.")
    if as_schema or as_page:
        typer.echo(schema_text() if as_schema else as_markdown(), nl=False)
        return
    for line in describe_settings(name):
        say(line)


@setup.command()
def recipes() -> None:
    """List the recipes that ship with the package."""
    for name in list_recipes():
        config = load_config(name, values={"model.name": "any", "questions.path": "any"})
        say(f"{name}: {config.description.strip()}")
