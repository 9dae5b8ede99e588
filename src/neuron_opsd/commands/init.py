"""`neuron-opsd init`: a commented settings file for one's own model and questions, checked before it is written.

for line in write_settings(Wishes(model="Qwen/Qwen3-4B", questions="exam.xlsx"), Path("exam.yaml")): print(line)
"""

import json
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neuron_opsd.commands.check_questions import check_questions
from neuron_opsd.commands.duration import describe_seconds, estimate_seconds
from neuron_opsd.commands.settings import schema_text
from neuron_opsd.config import Config, describe_setting, load_config
from neuron_opsd.early_checks.memory import describe_memory, fit_memory
from neuron_opsd.errors import ConfigError
from neuron_opsd.memory.estimate import is_small, run_lengths
from neuron_opsd.memory.fit import parse_size
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.defaults import resolve
from neuron_opsd.model.load import load_model_config, load_tokenizer
from neuron_opsd.questions.load import load_questions
from neuron_opsd.store.files import explain_disk_errors, write_text

SCHEMA_FILE = "neuron_opsd.schema.json"
WIDTH = 110  # of a comment
TRIAL = {
    "questions.max_train": 200,
    "questions.max_test": 50,
    "rollouts.max_new_tokens": 256,
    "training.max_new_tokens": 256,
    "training.num_steps": 20,
    "evaluation.max_new_tokens": 256,
    "evaluation.num_samples": 4,
}


@dataclass(frozen=True, slots=True)
class Goal:
    """What a user wants, and the recipe and settings for it."""

    text: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)


GOALS = {
    "method": Goal("the method, with the paper's values", "neuron_opsd"),
    "small-model": Goal("the method without replies that were cut or cannot be read", "usable_replies"),
    "position": Goal("a teacher that knows no position, for choices answered by letter", "order_average"),
    "trial": Goal(
        "a short trial of the method: few questions, short replies, 20 steps", "neuron_opsd", TRIAL
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked of a user."""

    model: str
    questions: str
    answers: tuple[str, ...] = ()
    goal: str = "method"
    memory: str = "free"  # what every stage is to fit: a size such as 24GB, or what is free
    overrides: tuple[str, ...] = ()  # further settings


def check_name(file: Path) -> None:
    """Refuse a file that is there, or that no command would take for settings.

    Raises:
        ConfigError: what is wrong with it.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{file} must end in .yaml, as `neuron-opsd run` reads it. Give another name.")
    if file.exists():
        raise ConfigError(f"{file} exists, and is not overwritten. Give another name, or remove it.")
    if not file.parent.is_dir():
        raise ConfigError(
            f"{file} is to be in {file.parent}, which is no folder. Make it, or give another name."
        )


def write_settings(wishes: Wishes, file: Path) -> Iterator[str]:
    """Check what a run would read, choose batches that fit, write the settings, and estimate memory and time.

    Raises:
        NeuronOpsdError: what a run would stop for. Nothing is written then.
    """
    check_name(file)
    if wishes.goal not in GOALS:
        raise ConfigError(f"--goal is {wishes.goal!r}. It must be one of {', '.join(GOALS)}.")
    if wishes.memory != "free":
        parse_size(wishes.memory, flag="--memory")
    goal = GOALS[wishes.goal]
    values = {"model.name": wishes.model, "questions.path": wishes.questions, **goal.settings}
    if wishes.answers:
        values["evaluation.answers"] = list(wishes.answers)
    given = load_config(goal.recipe, values=values, overrides=wishes.overrides)
    config = resolve(given)
    yield from check_questions(config, with_model=True)
    questions = load_questions(config.questions)
    is_counted = not is_small(
        load_model_config(config.model)
    )  # small ones fit anywhere, and counting takes longer
    fitted = fit_memory(config, questions, wishes.memory) if is_counted else config
    fitting = [f"{name}={json.dumps(value)}" for name, value in _changed(config, fitted).items()]
    given = load_config(goal.recipe, values=values, overrides=[*wishes.overrides, *fitting])
    with explain_disk_errors(file):
        write_text(file.with_name(SCHEMA_FILE), schema_text())
        write_text(file, as_yaml(given, goal, file))
    yield f"\nwritten: {file}, and {file.with_name(SCHEMA_FILE)} for editors"
    if is_counted:
        yield from describe_memory(fitted, questions)
    lengths = run_lengths(fitted, questions, ChatEncoder.of(fitted.model, load_tokenizer(fitted.model)))
    yield from describe_seconds(estimate_seconds(fitted, questions, lengths))
    yield f"next: {_command(file)}     (--dry-run shows prompts and settings)"


def as_yaml(config: Config, goal: Goal, file: Path) -> str:
    """The settings that are given, each below what it means."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        f"# Settings of neuron-opsd: {goal.text} (recipe {config.recipe}). `neuron-opsd settings` lists all there are.",
        f"#     {_command(file)}",
    ]
    if not config.evaluation.answers:
        lines += [
            "# Gold answers are for evaluation alone: `evaluation: {answers: [FILE]}`, or --answers FILE."
        ]
    given = config.model_dump(mode="json", exclude_unset=True, exclude={"recipe"})
    given["description"] = config.description.strip()
    for name, value in given.items():
        if isinstance(value, dict):
            lines += ["", f"{name}:", *_entries(value, f"{name}.", indent="  ")]
        else:
            lines += ["", *_entries({name: value}, "", indent="")]
    return "\n".join(lines) + "\n"


def _command(file: Path) -> str:
    return shlex.join(["neuron-opsd", "run", str(file), "--output", f"runs/{file.stem}"])


def _entries(values: Mapping[str, Any], before: str, *, indent: str) -> Iterator[str]:
    for name, value in values.items():
        about = describe_setting(before + name)
        yield from textwrap.wrap(about, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if isinstance(value, dict) and value and not about:  # a section within a section
            yield f"{indent}{name}:"
            yield from _entries(value, f"{before}{name}.", indent=f"{indent}  ")
        else:
            (flow,) = yaml.safe_dump(
                [value], default_flow_style=True, allow_unicode=True, width=10**6
            ).splitlines()
            yield f"{indent}{name}: {flow[1:-1]}"


def _changed(before: Config, after: Config) -> dict[str, Any]:
    """Settings by dotted name that are others after."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    sections = [name for name in new if isinstance(new[name], dict)]
    return {f"{s}.{key}": value for s in sections for key, value in new[s].items() if value != old[s][key]}
