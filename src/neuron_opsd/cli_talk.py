"""The commands that talk to the models of a run: `ask`, `chat` and `serve`. `cli` takes them in."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neuron_opsd import cli_options as option
from neuron_opsd.cli_print import quieten_libraries, say, show_text
from neuron_opsd.errors import ConfigError, NeuronOpsdError
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.text.escape import terminal_text

if TYPE_CHECKING:
    from neuron_opsd.commands.speakers import Speakers

talk = typer.Typer()

PORT = 8765  # of the page
Which = Annotated[str, typer.Option("--model", help="base, trained or both.")]
ShowThinking = Annotated[bool, typer.Option("--thinking", help="Show the thinking before each answer.")]
Web = Annotated[bool, typer.Option("--web", help="A page in your browser instead, from this machine alone.")]
Port = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, help=f"With --web: its port, {PORT} unless given. 0: any.", show_default=False
    ),
]


@talk.command()
def ask(
    run: option.Run,
    question: Annotated[str | None, typer.Argument(help="In quotes.", show_default=False)] = None,
    choices: Annotated[
        list[str] | None, typer.Option(help="A choice. Repeatable. Without any, the question is free-form.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Replies of each model. Default: as in the evaluation.", show_default=False),
    ] = None,
    model: Which = "both",
    thinking: ShowThinking = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every reply.")] = False,
    web: Web = False,
    port: Port = None,
) -> None:
    """Ask base and trained model one question, as the run's evaluation asks, and compare their answers."""
    from neuron_opsd.commands.ask import ask as ask_models
    from neuron_opsd.commands.ask import cautions, describe_answers, make_question

    unread = {
        "QUESTION": question,
        "--choices": choices,
        "--samples": samples,
        "--thinking": thinking,
        "--json": as_json,
    }
    _check_read(unread, web=web, port=port)
    if web:
        _serve_page(run, model, port, start="ask")
        return
    asked = make_question(question or "", choices or [])  # before any model is loaded
    speakers = _speakers(run, model)
    found = list(ask_models(speakers, asked.question, asked.choices, num_samples=samples))
    if as_json:
        models = {own.role: own.as_tree() for own in found}
        tree = {"question": asked.question, "choices": asked.choices, "models": models}
        show_text(json.dumps(tree, indent=2))
        return
    rows = describe_answers(asked, found, shows_thinking=thinking)
    _print_table(["", *(own.role for own in found)], [(label, *cells) for label, cells in rows])
    for line in cautions(found):
        say(line)


@talk.command()
def chat(
    run: option.Run,
    model: Which = "both",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of each reply. Default: the evaluation's, and no less than 512.", show_default=False
        ),
    ] = None,
    thinking: ShowThinking = False,
    web: Web = False,
    port: Port = None,
) -> None:
    """Talk with base and trained model side by side, each with its own history. /help lists what else there is."""
    from neuron_opsd.commands.chat import HELP, Chat

    _check_read({"--thinking": thinking}, web=web, port=port)
    if web:
        _serve_page(run, model, port, start="chat", max_new_tokens=max_new_tokens)
        return
    speakers = _speakers(run, model)
    speakers.load()
    conversation = Chat(speakers, max_new_tokens=max_new_tokens)
    say(f"Talking with {' and '.join(speakers.roles)} of {run}. /help lists the commands.")
    while (text := _read_line()) is not None and text != "/quit":
        if text == "/reset":
            conversation.reset()
            say("The conversation is forgotten.")
        elif text.startswith("/"):
            say(HELP if text == "/help" else f"{text} is no command.\n{HELP}")
        elif text:
            _print_replies(conversation, text, shows_thinking=thinking)


def _read_line() -> str | None:
    """What the user types. None at the end of the input, and after Ctrl-C."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (arrow keys and earlier lines, in `input`)
    try:
        return input("you> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        say("")
        return None


def _print_replies(conversation, text: str, *, shows_thinking: bool) -> None:
    from neuron_opsd.commands.ask import shown_reply

    try:
        replies = conversation.say(text)
    except NeuronOpsdError as error:  # the conversation goes on
        say(f"error: {error}", err=True)
        return
    except KeyboardInterrupt:
        say("stopped. The models did not hear that.")
        return
    shown = [shown_reply(reply, shows_thinking=shows_thinking) for reply in replies.values()]
    _print_table(list(replies), [shown])


@talk.command()
def serve(
    run: option.Run,
    server: Annotated[
        str | None,
        typer.Option(help="vllm or transformers. Default: vllm where it is installed.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine alone.")] = 8000,
    only_print: Annotated[bool, typer.Option("--print", help="Print the command, and stop.")] = False,
) -> None:
    """Serve the trained model by vLLM's or transformers' own server, with an OpenAI-compatible API."""
    from neuron_opsd.commands.loopback import take_port
    from neuron_opsd.commands.serve import find_program, server_command

    command = server_command(RunFolder.open(run), server=server, port=port)
    say(shlex.join(command))
    if not only_print:
        program = find_program(command[0])
        take_port(port).close()
        os.execv(program, command)


def _speakers(run: Path, which: str) -> "Speakers":
    from neuron_opsd.commands.speakers import Speakers

    folder = RunFolder.open(run)
    quieten_libraries()
    return Speakers(folder, which)


def _check_read(unread_by_page: Mapping[str, object], *, web: bool, port: int | None) -> None:
    """Refuse what is given and would not be read.

    Raises:
        ConfigError: names it.
    """
    given = [name for name, value in unread_by_page.items() if value not in (None, False)]
    if web and given:
        raise ConfigError(
            f"--web opens a page that has its own fields, and does not read {', '.join(given)}. "
            "Leave that out, or --web."
        )
    if port is not None and not web:
        raise ConfigError(
            f"--port is {port}, but without --web there is no page. Add --web, or leave --port out."
        )


def _serve_page(
    run: Path, which: str, port: int | None, *, start: str, max_new_tokens: int | None = None
) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from neuron_opsd.commands.web import serve_page
    except ImportError as error:
        raise ConfigError(f"--web needs a web server: {error}. Run pip install 'neuron-opsd[web]'.") from None
    from neuron_opsd.commands.loopback import take_port

    with take_port(PORT if port is None else port) as taken:
        speakers = _speakers(run, which)
        speakers.load()
        say(f"Open http://127.0.0.1:{taken.getsockname()[1]}/#{start} in your browser. Ctrl-C ends it.")
        serve_page(speakers, taken, max_new_tokens=max_new_tokens)


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side. Whatever a cell holds, the terminal obeys none of it."""
    table = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in table.columns[-1:] if head[0] else table.columns:
        column.ratio = 1
    for row in rows:
        table.add_row(*(Text(terminal_text(cell)) for cell in row))
    Console().print(table)
