"""The command line: parses a command, loads a recipe, calls the pipeline or one stage. No torch until work begins."""

import errno
import logging
import os
import sys
import warnings
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuron_opsd import cli_options as option
from neuron_opsd import processes
from neuron_opsd.cli_arguments import refuse_repeated, with_fit_value
from neuron_opsd.cli_print import (
    log_handler,
    print_end,
    print_figures,
    print_preflight,
    print_version,
    quieten_libraries,
    say,
    show_text,
)
from neuron_opsd.cli_setup import setup
from neuron_opsd.cli_talk import talk
from neuron_opsd.cli_views import views
from neuron_opsd.config import Config, load_config
from neuron_opsd.config.graph import COMMANDS, STAGE_NAMES, command_of
from neuron_opsd.errors import ConfigError, NeuronOpsdError
from neuron_opsd.store.run_folder import RunFolder

if TYPE_CHECKING:
    from neuron_opsd.run.runners import Runner

app = typer.Typer(
    help="Make an open-weight language model better at your field from unlabelled questions alone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(views)
app.add_typer(setup)
app.add_typer(talk)
logger = logging.getLogger(__name__)

# What is wrong with a path that was given, wherever it is first used.
PATH_ERRORS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)
PATH_SHOWN = 100  # characters
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> None:
    """Run the command line. Expected errors end with status 2 and their message alone."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The message is for the person at the terminal, so it must not look like a log line that scrolls by.
    try:
        refuse_repeated(typer.main.get_command(app), sys.argv[1:])
        app(args=with_fit_value(sys.argv[1:]))
    except NeuronOpsdError as error:
        say(f"{'error: ' if error.exit_status == 2 else ''}{error}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:
        if error.errno not in PATH_ERRORS:
            raise
        name = str(error.filename)
        shown = name if len(name) <= PATH_SHOWN else f"{name[:PATH_SHOWN]}... ({len(name):,} characters)"
        say(f"error: {shown}: {error.strerror}. Give another path, or see to its permissions.", err=True)
        sys.exit(2)
    except SystemExit as stop:  # typer's, which answers an interruption by this status alone
        if stop.code == INTERRUPTED:
            say("interrupted. The same command resumes where this one stopped", err=True)
        raise


@app.callback()
def _setup(
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also show the libraries' own messages.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=print_version, help="Print the version, and stop."),
    ] = False,
) -> None:
    """Logging for every command: ours at INFO, the libraries' at ERROR."""
    logging.basicConfig(level=logging.INFO, handlers=[log_handler()])
    for name in (
        "httpx",
        "httpcore",
        "transformers",
        "huggingface_hub",
        "peft",
        "accelerate",
        "datasets",
        "gguf",
        "torch",
    ):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning)
        # transformers configures its own handlers and bars on import. This variable is read then.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@app.command()
def run(
    recipe: option.Recipe,
    overrides: option.Overrides = None,
    model: option.Model = None,
    questions: option.Questions = None,
    cross: option.Cross = None,
    answers: option.Answers = None,
    output: option.Output = None,
    until: option.Until = "report",
    stop_if_unlikely: option.StopIfUnlikely = False,
    num_processes: option.Processes = 1,
    runner: option.Runner = "local",
    dry_run: option.DryRun = False,
    show_all: option.ShowAll = False,
    fit: option.Fit = None,
    cache: option.Cache = None,
    track: option.Track = None,
) -> None:
    """Run the whole method, from questions to report. The same command resumes an interrupted run."""
    from neuron_opsd.commands.automatic import AUTO, BY_POSITION, choose_by_questions, choose_by_rollouts
    from neuron_opsd.early_checks import check_early

    if track:
        from neuron_opsd.run.tracking import check_tracker

        check_tracker(track)
    from neuron_opsd.model.defaults import resolve

    _use_cache(cache)
    until = _stop_after(until)
    _refuse_several_processes(until)
    values: dict[str, Any] = {"model.name": model, "questions.path": questions}
    values |= {"questions.cross_paths": cross, "evaluation.answers": answers}
    values = {key: value for key, value in values.items() if value}
    is_automatic, overrides = recipe == AUTO, overrides or []
    recipe = choose_by_questions(recipe, overrides=overrides, values=values)
    config = resolve(load_config(recipe, overrides=overrides, values=values))
    if stop_if_unlikely and not config.preflight.num_questions:
        raise ConfigError(
            "--stop-if-unlikely needs the preflight, which preflight.num_questions=0 leaves out."
        )
    if fit:
        config = _fitted(config, fit, until)
    if dry_run:
        usual = load_config(
            recipe, values={"model.name": config.model.name, "questions.path": config.questions.path}
        )
        _print_plan(config, resolve(usual), output, until, shows_all=show_all)
        return
    if output is None:
        raise ConfigError("--output is required: the folder to write this run to.")
    check_early(config, output, until=until)  # what can fail at once fails before a folder is made
    workers = _workers(runner, num_processes)
    folder = RunFolder.create(output)
    if is_automatic and recipe == BY_POSITION and until != "questions":
        from neuron_opsd.run.session import Run

        _run_stages(folder, until="rollouts", config=config, runner=workers)
        config = choose_by_rollouts(Run(folder), overrides=overrides, values=values)
        config = _fitted(config, fit, until) if fit else config
        check_early(config, output, until=until)
    _run_stages(
        folder, until=until, config=config, stop_if_unlikely=stop_if_unlikely, runner=workers, track=track
    )


def _fitted(config: Config, fit: str, until: str) -> Config:
    from neuron_opsd.early_checks.memory import fit_memory
    from neuron_opsd.questions.load import load_questions

    return fit_memory(config, load_questions(config.questions), fit, until)


@app.command()
def demo(
    overrides: option.Overrides = None,
    output: option.Output = Path("runs/demo"),
    dry_run: option.DryRun = False,
    cache: option.Cache = None,
) -> None:
    """Run the whole method on a small real model: write real questions to demo/data, then `run demo`."""
    from neuron_opsd.commands.demo_questions import prepare_sets
    from neuron_opsd.early_checks import check_early
    from neuron_opsd.model.defaults import resolve

    config = load_config("demo", overrides=overrides or ())
    prepare_sets(config)
    if not dry_run:
        _use_cache(cache)
        _refuse_several_processes("report")
        check_early(resolve(config), output)  # what the whole run refuses is heard before the first one
        # A newcomer sees figures before the training. The run after it finds these answers in the cache.
        before = RunFolder.create(Path(f"{output}-before"))
        untrained = ["training.objective=none", "preflight.num_questions=0"]
        alone = load_config("demo", overrides=[*(overrides or ()), *untrained])
        _run_stages(before, until="evaluate", config=resolve(alone))
        say("Before training, of the model alone:")
        print_figures(before)
    run("demo", overrides, output=output, dry_run=dry_run, cache=cache)
    if not dry_run:
        say("next:   neuron-opsd init     # the same on your own questions: it asks for a model and a file")


def _use_cache(place: str | None) -> None:
    if place:
        from neuron_opsd.store.stage_cache import VARIABLE

        os.environ[VARIABLE] = place


def _workers(name: str, num_processes: int) -> "Runner":
    """The runner of the options."""
    from neuron_opsd.run.runners import RUNNERS, make_runner

    if name not in RUNNERS:
        raise ConfigError(f"--runner is {name!r}. It must be one of {', '.join(RUNNERS)}.")
    return make_runner(name, num_processes)


def _run_stages(
    folder: RunFolder,
    *,
    until: str,
    only: bool = False,
    config: Config | None = None,
    stop_if_unlikely: bool = False,
    runner: "Runner | None" = None,
    track: str | None = None,
) -> None:
    from neuron_opsd.pipeline import STAGES, run_stages
    from neuron_opsd.run.session import Run
    from neuron_opsd.run.tracking import Tracking

    quieten_libraries()
    _refuse_several_processes(until)
    with folder.locked() if processes.is_main() else nullcontext():
        if config is not None and processes.is_main():
            folder.write_config(config)
        tracking = Tracking(track, folder) if track else None
        session = Run(folder, runner=runner, tracking=tracking)
        with closing(tracking) if tracking else nullcontext():
            if only:
                STAGES[until](session)
            else:
                run_stages(session, until=until, stop_if_unlikely=stop_if_unlikely)
    processes.leave()
    if until == "preflight":
        print_preflight(folder)
    if until == "report":
        print_end(folder)


def _stop_after(stage: str) -> str:
    """The command of `--until`, which names a stage ("selection") or its command ("select").

    Raises:
        ConfigError: there is no such stage.
    """
    command = stage if stage in COMMANDS else command_of(stage)
    if command is None:
        raise ConfigError(f"--until is {stage!r}. It must be one of {', '.join(STAGE_NAMES)}.")
    return command


def _refuse_several_processes(until: str) -> None:
    if processes.num_processes() > 1 and until != "train":
        raise ConfigError(
            f"accelerate launch started {processes.num_processes()} processes, but only `train` shares its work. Run "
            "`neuron-opsd run ... --until contexts` without it, then `accelerate launch -m neuron_opsd.cli train RUN`."
        )


def _stage_command(name: str, text: str) -> None:
    def command(run: option.Run) -> None:
        _run_stages(RunFolder.open(run), until=name, only=True)

    app.command(name=name, help=text)(command)


def _sharded_command(name: str, text: str) -> None:
    def command(
        run: option.Run,
        num_processes: option.Processes = 1,
        runner: option.Runner = "local",
        shards: option.Shares = None,
    ) -> None:
        folder, workers = RunFolder.open(run), _workers(runner, num_processes)
        if shards is None:
            _run_stages(folder, until=name, only=True, runner=workers)
        else:
            _make_shares(folder, name, _parse_share(shards), workers)

    app.command(name=name, help=text)(command)


def _make_shares(folder: RunFolder, name: str, share: tuple[int, int], runner: "Runner") -> None:
    from neuron_opsd.pipeline import make_shares
    from neuron_opsd.run.session import Run

    quieten_libraries()
    with folder.locked(shared=True):
        make_shares(Run(folder, runner=runner), name, *share)


def _parse_share(text: str) -> tuple[int, int]:
    part, _, num_parts = text.partition("/")
    if not (part.isdecimal() and num_parts.isdecimal() and int(part) < int(num_parts)):
        raise ConfigError(
            f"--shards is {text!r}. It must be K/N with K from 0 to N - 1, such as 0/8 for the first of eight."
        )
    return int(part), int(num_parts)


@app.command()
def questions(
    arguments: option.RunOrOverrides = None,
    check: option.Check = None,
    answers: option.CheckedAnswers = None,
    model: option.Model = None,
    ids: option.Ids = False,
) -> None:
    """Read, de-duplicate and split the questions of a run, list their --ids, or --check a file before any run."""
    given = arguments or []
    if (ids or check is None) and (len(given) != 1 or answers or model or check):
        raise ConfigError(
            "Name one run folder: neuron-opsd questions RUN, or RUN --ids. Or name a file: --check FILE."
        )
    if ids:
        from neuron_opsd.commands.list_questions import list_questions

        for line in list_questions(RunFolder.open(Path(given[0]))):
            show_text(line)
        return
    if check is None:
        _run_stages(RunFolder.open(Path(given[0])), until="questions", only=True)
        return
    from neuron_opsd.commands.check_questions import check_questions

    values = {"model.name": model or "none", "questions.path": check, "evaluation.answers": answers or []}
    config = load_config("neuron_opsd", overrides=given, values=values)
    quieten_libraries()
    for line in check_questions(config, with_model=model is not None):
        show_text(line)


_sharded_command("rollouts", "Answer every question of the pool zero-shot.")
_sharded_command("neurons", "Find the neurons behind each answer.")
_stage_command("select", "Keep the questions with the highest consensus.")
_stage_command("contexts", "Build what the teacher reads.")
_stage_command("preflight", "Tell, without labels, what speaks against training.")
_stage_command("train", "Distil the teacher into the student.")
_sharded_command("evaluate", "Compare base and trained model on the test questions.")
_stage_command("report", "Write report.html and report.md of what is there.")


@app.command()
def compare(
    folder: option.ComparisonFolder,
    overrides: option.SharedOverrides = None,
    recipe: option.Recipes = None,
    model: option.Model = None,
    questions: option.Domains = None,
    answers: option.ComparisonAnswers = None,
    seed: option.Seeds = None,
    steps: option.Steps = None,
    tokens: option.Tokens = None,
    dry_run: option.DryComparison = False,
    cache: option.Cache = None,
) -> None:
    """Compare recipes on the same questions, trained on each domain and tested on all. The same command resumes."""
    from neuron_opsd.comparison.run import compare_recipes, describe_cells

    _use_cache(cache)
    given = {
        "recipes": recipe, "model": model, "questions": questions, "answers": answers, "seeds": seed,
        "num_steps": steps, "num_tokens": tokens, "overrides": overrides,
    }  # fmt: skip
    given = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value
    }
    if dry_run:
        for line in describe_cells(folder, given):
            say(line)
        return
    quieten_libraries()
    say(compare_recipes(folder, given))


def _print_plan(config: Config, recipe: Config, output: Path | None, until: str, *, shows_all: bool) -> None:
    """What is read, the settings, and the work. Nothing is written."""
    from neuron_opsd.commands.cost import describe_work
    from neuron_opsd.commands.plan import describe_prompts, describe_settings
    from neuron_opsd.early_checks import check_early
    from neuron_opsd.early_checks.memory import describe_memory

    questions = check_early(config, output, until=until)
    for line in describe_prompts(config, questions):
        show_text(line)
    say(
        "=== settings, all ==="
        if shows_all
        else "=== settings other than the recipe's (--all: every one) ==="
    )
    for line in describe_settings(config, recipe, shows_all=shows_all):
        say(line)
    say("=== work ===")
    for line in describe_work(config, questions, RunFolder(output) if output else None):
        say(line)
    for line in describe_memory(config, questions, until):
        say(line)


if __name__ == "__main__":
    main()
