"""What the commands print: lines, the log, the end of a run. Whatever is printed, the terminal obeys none of it."""

import importlib.metadata
import logging
import shlex
import sys

import typer
from rich.console import Console
from rich.logging import RichHandler

from neuron_opsd.redaction import redact
from neuron_opsd.results import PreflightVerdict, Results, TeacherGap, load
from neuron_opsd.store.run_folder import RESULTS, TEACHER_GAP, RunFolder
from neuron_opsd.text.escape import terminal_text


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
