"""The commands that look at a run, or hand on what it holds. `cli` takes them in beside those that work."""

import dataclasses
import importlib.metadata
import json
import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from neuron_opsd import cli_options as option
from neuron_opsd.config import list_recipes, load_config
from neuron_opsd.errors import ConfigError
from neuron_opsd.redaction import redact
from neuron_opsd.results import PreflightVerdict, Results, TeacherGap, load
from neuron_opsd.store.run_folder import RESULTS, TEACHER_GAP, RunFolder
from neuron_opsd.text.escape import terminal_text

views = typer.Typer()


def say(text: object, *, err: bool = False) -> None:
    """Print a line. Whatever is in it, the terminal obeys none of it, and no secret is in it."""
    typer.echo(terminal_text(redact(text)), err=err)


def show_text(text: object) -> None:
    """Print what questions, prompts and replies hold. A password may be a word, so nothing is hidden in them."""
    typer.echo(terminal_text(text))


class PlainFormatter(logging.Formatter):
    """Lines of the log, printed as `say` prints."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, with a traceback where there is one."""
        return terminal_text(redact(super().format(record)))


class EachOnce(logging.Filter):
    """Lets a message through once: what the checks before a run said, the run itself need not say again."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new."""
        is_new = (message := record.getMessage()) not in self.said
        self.said.add(message)
        return is_new


def log_handler() -> logging.Handler:
    """On a terminal, lines that fit it. In a file, whole lines with their date."""
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False, markup=False)
        handler.setFormatter(PlainFormatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(PlainFormatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    handler.addFilter(EachOnce())
    return handler


def quieten_libraries() -> None:
    """What transformers says and shows of itself, unless --verbose asks for it."""
    from transformers.utils import logging as transformers_logging

    if logging.getLogger("transformers").level >= logging.ERROR:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def print_version(is_asked: bool) -> None:
    """The release that is installed, and nothing else."""
    if is_asked:
        say(f"neuron-opsd {importlib.metadata.version('neuron-opsd')}")
        raise typer.Exit


def print_preflight(folder: RunFolder) -> None:
    """The verdict and what it rests on."""
    stage = folder.stage("preflight")
    if not stage.is_finished():
        say("No preflight: preflight.num_questions is 0.")
        return
    verdict, gap = load(PreflightVerdict, stage.summary()), folder.load_result(TEACHER_GAP, TeacherGap)
    for measure in [*verdict.measures, *(gap.measures if gap else ())]:
        ends = "" if measure.low is None else f" [{measure.low:.3f}, {measure.high:.3f}]"
        value = "not defined" if measure.value is None else f"{measure.value:.3f}"
        say(f"- {measure.label}: {value}{ends}. {measure.note}")
    say(f"{verdict.verdict.capitalize()}, because {'; '.join(verdict.reasons)}.")


def print_end(folder: RunFolder) -> None:
    """What training changed, a line each, and where things lie. The page has everything."""
    print_figures(folder)
    if (folder.model_folder).is_dir():
        say(f"model:  {folder.path / 'model'}")
        say(f"talk:   neuron-opsd chat {shlex.quote(str(folder.path))}")
    say(f"report: {folder.path / 'report.html'}")


def print_figures(folder: RunFolder) -> None:
    """What training changed, or where there is none, what the model is: a line each."""
    from neuron_opsd.report.ending import ending, standing

    results, config = folder.load_result(RESULTS, Results), folder.config()
    is_compared = config.training.trains or config.evaluation.has_second_reading
    for line in (ending if is_compared else standing)(results) if results else ():
        say(line)


@views.command()
def show(
    run: option.Run,
    question_id: Annotated[str, typer.Argument(help="A selected question. See contexts/records.jsonl.")],
) -> None:
    """Print exactly what student and teacher read for one question."""
    from neuron_opsd.contexts.prompts import show_prompts
    from neuron_opsd.run.session import Run

    folder = RunFolder.open(run)
    quieten_libraries()
    shown = show_prompts(Run(folder), question_id)
    for role in ("student", "teacher"):
        show_text(
            f"=== {role} prompt, {shown[f'num_{role}_prompt_tokens']} tokens ===\n{shown[f'{role}_prompt']}"
        )
    say(
        f"=== {shown['num_demonstrations']} demonstrations shown, {shown['num_demonstrations_dropped']} dropped ==="
    )


@views.command()
def harness(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder, or a comparison's.")],
    tasks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of task files. Default: tasks made of the held-out questions.", show_default=False
        ),
    ] = None,
) -> None:
    """Score base and trained model with lm-evaluation-harness, offline. Of a comparison, score every finished cell."""
    from neuron_opsd.commands.harness import check_installed, describe, run_harness

    quieten_libraries()
    check_installed()
    if (run / "comparison.json").is_file():
        from neuron_opsd.comparison.harness import harness_of_cells

        say(harness_of_cells(run, tasks=tasks))
        return
    from neuron_opsd.run.session import Run

    folder = RunFolder.open(run)
    with folder.locked():
        for line in describe(run_harness(Run(folder), tasks=tasks)):
            say(line)


@views.command()
def explain(
    run: option.Run,
    question_id: Annotated[str, typer.Argument(help="A question of the pool. See selection/records.jsonl.")],
    neighbours: Annotated[int, typer.Option(min=1, help="How many of the nearest questions.")] = 10,
) -> None:
    """Print one question's scores and ranks, the layers of its neurons, and whose answers used the same ones."""
    from neuron_opsd.commands.explain import describe, explain_run

    show_text(describe(explain_run(RunFolder.open(run), question_id, num_neighbours=neighbours)))


@views.command()
def read_answer(
    choices: Annotated[
        list[str] | None,
        typer.Option(
            help="A choice, in the order shown. Repeatable. Without any, the question is free-form."
        ),
    ] = None,
    answer_format: Annotated[
        str, typer.Option("--format", help="reasoned, letter, choice_text, free or math.")
    ] = "reasoned",
    pattern: Annotated[
        str | None, typer.Option(help="As prompts.answer_pattern: a regular expression with one group.")
    ] = None,
) -> None:
    """Print the answer that is read from each reply on standard input, and how, or why none is.

    A line is a reply, or a JSON object with `reply` and, where wanted, `choices` and `finish_reason`.
    """
    from neuron_opsd.commands.read_answer import read_lines
    from neuron_opsd.config import check_prompts
    from neuron_opsd.report.readings import shorten
    from neuron_opsd.text.answer_pattern import check_pattern

    prompts = check_prompts({"answer_format": answer_format, "answer_pattern": pattern})
    if pattern:
        check_pattern(pattern)
    for reply, reading in read_lines(sys.stdin, choices=choices or (), prompts=prompts):
        show_text(f"{reading.answer or '-'}\t{reading.kind}\t{shorten(reply)}")


@views.command()
def status(
    run: option.Run,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[section.key=value]...", help="What would be made again with these settings?"
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also compare checksums, which finds every damaged file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
) -> None:
    """Say what a run holds, what is outdated and why, and how long finishing takes. Nothing is written."""
    from neuron_opsd.commands.status import describe_status, run_status

    folder = RunFolder.open(run)
    config = folder.config()
    if overrides:
        config = load_config(str(folder.config_file), overrides=overrides)
    with _quiet("neuron_opsd.questions"):  # said when the run began
        found = run_status(folder, config, verify=verify)
    say(json.dumps(dataclasses.asdict(found), indent=2) if as_json else describe_status(found))


@views.command()
def free(
    yes: Annotated[bool, typer.Option("--yes", help="Remove them. Without it, only list them.")] = False,
) -> None:
    """Remove finished stages from the shared cache that no run refers to."""
    from neuron_opsd.store.stage_cache import default_cache

    cache = default_cache()
    entries, total = cache.unused(), len(cache.entries())
    for entry in entries:
        say(f"{entry.stage}/{entry.fingerprint}: {entry.num_bytes / 1e6:.1f} MB")
    size = sum(entry.num_bytes for entry in entries) / 1e6
    if yes:
        cache.free(entries)
    done = "removed" if yes else "would be removed. --yes removes them"
    say(f"{len(entries)} of {total} finished stages, {size:.1f} MB, {done}")


@views.command()
def export(
    run: option.Run,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="The model: gguf (llama.cpp, Ollama, LM Studio), merged or adapter. Its questions and contexts for "
            "another trainer: trl, ms-swift or verl.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="The file: .gguf, JSON lines, or Parquet for verl. A folder for merged and adapter."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="For gguf: f32, f16, bf16 or q8_0. The default is what the model is saved in."),
    ] = None,
) -> None:
    """Write the trained model for other programs, or its questions and contexts for another trainer."""
    from neuron_opsd.commands.export import FORMATS
    from neuron_opsd.commands.export import export as write
    from neuron_opsd.commands.export_model import MODEL_FORMATS, export_model
    from neuron_opsd.run.session import Run

    if format_name not in (*MODEL_FORMATS, *FORMATS):
        raise ConfigError(
            f"--format is {format_name!r}. It must be one of {', '.join((*MODEL_FORMATS, *FORMATS))}."
        )
    folder = RunFolder.open(run)
    quieten_libraries()
    if format_name in FORMATS:
        say(f"{write(Run(folder), format_name=format_name, output=output)} questions: {output}")
        return
    for line in export_model(Run(folder), format_name=format_name, output=output, weights=weights):
        say(line)


@views.command()
def push(
    run: option.Run,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
) -> None:
    """Send the trained model, with its card, to the Hugging Face hub."""
    from neuron_opsd.commands.push import push as upload

    say(upload(RunFolder.open(run), repository, public=public))


@views.command()
def env() -> None:
    """Print versions and devices, for a bug report."""
    from neuron_opsd.model.environment import describe_environment

    say(json.dumps(describe_environment(), indent=2))


@views.command()
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


@views.command()
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


@views.command()
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


@views.command()
def recipes() -> None:
    """List the recipes that ship with the package."""
    for name in list_recipes():
        config = load_config(name, values={"model.name": "any", "questions.path": "any"})
        say(f"{name}: {config.description.strip()}")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Errors alone from one logger, for a while."""
    named = logging.getLogger(name)
    before = named.level
    named.setLevel(logging.ERROR)
    try:
        yield
    finally:
        named.setLevel(before)
