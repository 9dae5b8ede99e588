"""The commands that look at a run, or hand on what it holds. `cli` takes them in beside those that work."""

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from neuron_opsd import cli_options as option
from neuron_opsd.cli_print import quieten_libraries, say, show_text
from neuron_opsd.config import load_config
from neuron_opsd.errors import ConfigError
from neuron_opsd.store.run_folder import RunFolder

views = typer.Typer()


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
