"""The arguments and options of `cli.py`'s commands: what each takes, and what --help says of it."""

from pathlib import Path
from typing import Annotated

import typer

from neuron_opsd.config.graph import STAGE_NAMES

# Of several commands.
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, made by `neuron-opsd run`.")]
Model = Annotated[
    str | None,
    typer.Option(help="Folder, hub name, .gguf file or embedded:smollm2-135m.", show_default=False),
]
Cache = Annotated[
    str | None,
    typer.Option(help="Folder through which runs share finished stages. `off` for none.", show_default=False),
]
Processes = Annotated[
    int,
    typer.Option(
        min=1,
        help="Make rollouts, neurons and evaluation in N processes, each on a GPU or a share of the cores.",
    ),
]
Runner = Annotated[
    str, typer.Option(help="Where these processes are: local (this machine) or ray (RAY_ADDRESS's cluster).")
]
Shares = Annotated[
    str | None,
    typer.Option(
        metavar="K/N",
        help="Make the K-th of N shares (K from 0), beside others. The command without it gathers them.",
        show_default=False,
    ),
]

# Of `run`.
Recipe = Annotated[str, typer.Argument(help="A shipped recipe's name, a YAML file, or `auto`.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value]...", help="Settings that win over the recipe."),
]
Questions = Annotated[
    str | None,
    typer.Option(help="JSONL, CSV, Parquet, Excel, ... file, or a data set's name.", show_default=False),
]
Cross = Annotated[
    list[str] | None, typer.Option(help="Another domain's questions, evaluated only. Repeatable.")
]
Answers = Annotated[list[str] | None, typer.Option(help="Gold answers for evaluation alone. Repeatable.")]
Output = Annotated[Path | None, typer.Option(help="The run folder.", show_default=False)]
Until = Annotated[str, typer.Option(help="Stop after this stage: " + ", ".join(STAGE_NAMES) + ".")]
StopIfUnlikely = Annotated[
    bool,
    typer.Option("--stop-if-unlikely", help="End with status 3 where the preflight says: unlikely to help."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print prompts, settings, work and memory, and stop.")
]
ShowAll = Annotated[bool, typer.Option("--all", help="With --dry-run: every setting.")]
Fit = Annotated[
    str | None,
    typer.Option(
        metavar="[SIZE]",
        help="Set batches so small that every stage fits SIZE, such as 24GB. Without SIZE: what is free.",
        show_default=False,
    ),
]

Track = Annotated[
    str | None,
    typer.Option(
        metavar="TRACKER",
        help="Also send every stage's figures to wandb, trackio, tensorboard or mlflow, below the run folder.",
        show_default=False,
    ),
]

# Of `questions`.
RunOrOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN | [section.key=value]...", help="A run folder. With --check: settings."),
]
Check = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Print what a run would read from this file.", show_default=False),
]
Ids = Annotated[
    bool,
    typer.Option("--ids", help="List the pool's ids, for `show` and `explain`. A star: selected."),
]
CheckedAnswers = Annotated[
    list[str] | None, typer.Option(help="With --check: count these gold answers. Repeatable.")
]

# Of `compare`.
ComparisonFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder of the comparison, new or existing.")
]
SharedOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value]...", help="Settings that win over every recipe."),
]
Recipes = Annotated[
    list[str] | None, typer.Option(help="A shipped recipe's name, or a YAML file. Repeatable.")
]
Domains = Annotated[
    list[str] | None,
    typer.Option(help="One domain's questions. Repeatable: each is trained on, and all are tested."),
]
ComparisonAnswers = Annotated[
    list[str] | None,
    typer.Option(help="Gold answers of held-out questions (of the pool for gold_upper_bound). Repeatable."),
]
Seeds = Annotated[list[int] | None, typer.Option(help="Repeatable. 0, 1 and 2 by default.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Optimiser steps of every recipe that trains. 150 by default.")
]
Tokens = Annotated[
    int | None,
    typer.Option(min=1, help="Instead of --steps: tokens that each recipe may generate and train on."),
]
DryComparison = Annotated[
    bool, typer.Option("--dry-run", help="Print the cells and what became of them, and stop.")
]
