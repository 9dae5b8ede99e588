"""The whole method from Python, in three lines.

result = neuron_opsd.improve("Qwen/Qwen3-4B-Instruct-2507", "biology.jsonl", output="runs/biology")
result.report()
result.ask("Which gas do plants take in?", ["oxygen", "carbon dioxide"])
"""

import html
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_opsd.commands.ask import Answers, ask
from neuron_opsd.commands.automatic import AUTO, BY_POSITION, choose_by_questions, choose_by_rollouts
from neuron_opsd.commands.push import push
from neuron_opsd.commands.speakers import Speakers
from neuron_opsd.config import Config, load_config
from neuron_opsd.early_checks import check_early
from neuron_opsd.errors import ConfigError, RunFolderError
from neuron_opsd.model.defaults import resolve
from neuron_opsd.pipeline import run_stages
from neuron_opsd.results import Results
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import explain_disk_errors, write_lines
from neuron_opsd.store.run_folder import PAGE, RESULTS, RunFolder

FilePath = str | Path


@dataclass(frozen=True)
class Report:
    """The report of a run. A notebook shows the page where it is the last value of a cell."""

    path: Path

    def html(self) -> str:
        """The whole page."""
        return self.path.read_text(encoding="utf-8")

    def _repr_html_(self) -> str:
        # In a frame of its own: neither can the page reach the notebook, nor do their styles mix.
        page = html.escape(self.html(), quote=True)
        return f'<iframe sandbox="allow-scripts" width="100%" height="800" srcdoc="{page}"></iframe>'


class Result:
    """A finished run: its report, its trained model, and both models to ask.

    Args:
        folder: The run's folder.

    Raises:
        RunFolderError: it is not one.
    """

    def __init__(self, folder: FilePath) -> None:
        if not isinstance(folder, str | Path):
            raise ConfigError(f"folder is {folder!r}. It must be a text or a pathlib.Path.")
        self.run_folder = RunFolder.open(folder)

    def __repr__(self) -> str:
        return f"Result({str(self.run_folder.path)!r})"

    @property
    def model_folder(self) -> Path:
        """The trained model: `AutoModelForCausalLM.from_pretrained(result.model_folder)`.

        Raises:
            RunFolderError: the run has none, or a damaged one.
        """
        self.run_folder.require_model()
        return self.run_folder.model_folder

    @property
    def results(self) -> Results | None:
        """Every metric of both models, with its interval. None before evaluation."""
        return self.run_folder.load_result(RESULTS, Results)

    def report(self) -> Report:
        """The report's page.

        Raises:
            RunFolderError: there is none yet.
        """
        page = self.run_folder.path / PAGE
        if not page.is_file():
            raise RunFolderError(
                f"{page} does not exist. Write it: neuron-opsd report {shlex.quote(str(self.run_folder.path))}"
            )
        return Report(page)

    def ask(
        self, question: str, choices: Sequence[str] | None = None, *, num_samples: int | None = None
    ) -> dict[str, Answers]:
        """What the base and the trained model answer, by "base" and "trained", as the evaluation asks them."""
        speakers = Speakers(self.run_folder)
        return {own.role: own for own in ask(speakers, question, choices or (), num_samples=num_samples)}

    def push(self, repository: str, *, public: bool = False) -> str:
        """Send the trained model with its card to OWNER/NAME on the Hugging Face hub. Returns the commit's address."""
        return push(self.run_folder, repository, public=public)


def improve(
    model: FilePath,
    questions: FilePath | Sequence[str | Mapping[str, Any]],
    /,  # so that the sections `model` and `questions` can be given as settings
    answers: FilePath | Sequence[FilePath] | None = None,
    *,
    output: FilePath,
    recipe: str = "neuron_opsd",
    **settings: Any,
) -> Result:
    """Run the whole method. The same call again resumes, or finds all finished.

    Args:
        model: A folder, a hub name, a .gguf file or `embedded:smollm2-135m`.
        questions: A file, or the questions themselves: texts, or rows such as {"question": ..., "choices": [...]}. The
            latter are written to OUTPUT.questions.jsonl.
        answers: Files of gold answers, for evaluation alone.
        output: The run's folder.
        recipe: A shipped recipe's name, a YAML file, or "auto", which chooses one by the questions.
        settings: Sections of settings: `training={"num_steps": 20}, evaluation={"num_samples": 4}, seed=1`.

    Raises:
        NeuronOpsdError: what the command line refuses, with its message.
    """
    for name, value in {"model": model, "output": output, "recipe": recipe}.items():
        if not isinstance(value, str | Path):
            raise ConfigError(f"{name} is {value!r}. It must be a text or a pathlib.Path.")
    folder = Path(output)
    values: dict[str, Any] = {"model.name": str(model)}
    if answers is not None:
        values["evaluation.answers"] = _answer_files(answers)
    values["questions.path"] = str(_question_file(questions, folder))
    values |= dict(_dotted(settings))
    named = choose_by_questions(str(recipe), values=values)
    config: Config = resolve(load_config(named, values=values))
    check_early(config, folder)
    run_folder = RunFolder.create(folder)
    with run_folder.locked():
        run_folder.write_config(config)
        if recipe == AUTO and named == BY_POSITION:
            run = Run(run_folder)
            run_stages(run, until="rollouts")
            config = choose_by_rollouts(run, values=values)
            check_early(config, folder)
            run_folder.write_config(config)
        run_stages(Run(run_folder))
    return Result(folder)


def _question_file(questions: FilePath | Sequence[str | Mapping[str, Any]], folder: Path) -> FilePath:
    """The file of the questions, written where they were given themselves."""
    if isinstance(questions, str | Path):
        return questions
    what = "Give a file, or a list of texts or of rows such as {'question': ..., 'choices': [...]}."
    # A mapping and bytes are iterable, too, but their items are no questions. A table of pandas has no truth value.
    if not isinstance(questions, Sequence) or isinstance(questions, bytes):
        raise ConfigError(f"questions is of type {type(questions).__name__}. {what}")
    if not questions:
        raise ConfigError(f"questions is empty. {what}")
    lines = [_as_line(row, place) for place, row in enumerate(questions)]
    file = folder.with_name(f"{folder.name}.questions.jsonl")
    with explain_disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_lines(file, lines)
    return file


def _as_line(row: object, place: int) -> str:
    """A question as a line of JSON."""
    if isinstance(row, str):
        row = {"question": row}
    if not isinstance(row, Mapping):
        raise ConfigError(
            f"questions[{place}] is {row!r}. It must be a text, or a row such as {{'question': ..., 'choices': [...]}}."
        )
    try:
        return json.dumps(dict(row), ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:  # a value of no JSON type, or one that holds itself
        raise ConfigError(
            f"questions[{place}] cannot be written as JSON: {error}. Give texts, numbers and lists."
        ) from None


def _answer_files(answers: FilePath | Sequence[FilePath]) -> list[str]:
    given = [answers] if isinstance(answers, str | Path) else answers
    if not isinstance(given, Sequence) or not all(isinstance(file, str | Path) for file in given):
        raise ConfigError(f"answers is {answers!r}. It must be a file with answers, or a list of such files.")
    return [str(file) for file in given]


def _dotted(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings -> dotted keys, so that a section keeps what the recipe says of its others."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
