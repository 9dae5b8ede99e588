"""What was typed, before the parser reads it: what the parser would misread, or drop without a word."""

import re
from collections.abc import Sequence
from typing import Any

from neuron_opsd.errors import ConfigError


def with_fit_value(arguments: Sequence[str]) -> list[str]:
    """The arguments with `free` after a --fit that has no size: the parser knows no option whose value may lack."""
    given = list(arguments)
    for place, argument in enumerate(given):
        # What begins with a digit is meant as a size, also where it is none. A later check says so.
        if argument == "--fit" and not re.match(r"\.?\d|free$", "".join(given[place + 1 : place + 2]), re.I):
            given.insert(place + 1, "free")
            break
    return given


def refuse_repeated(command: Any, arguments: Sequence[str]) -> None:
    """Refuse an option that is given twice where it takes one value. The parser would keep the last.

    Args:
        command: The whole command line, as typer makes it.
        arguments: What was typed after the program's name.

    Raises:
        ConfigError: names the option and its values.
    """
    name = next((argument for argument in arguments if argument in command.commands), None)
    if name is None:
        return
    single = {
        spelling
        for option in command.commands[name].params
        if not (getattr(option, "multiple", True) or getattr(option, "is_flag", True))
        for spelling in option.opts
    }
    given: dict[str, list[str]] = {}
    for place, argument in enumerate(arguments):
        spelling, is_joined, value = argument.partition("=")
        if argument == "--":
            break
        if spelling in single:
            given.setdefault(spelling, []).append(
                value if is_joined else "".join(arguments[place + 1 : place + 2])
            )
    for spelling, values in given.items():
        if len(values) > 1:
            raise ConfigError(
                f"{spelling} is given {len(values)} times ({', '.join(values)}), and takes one value. Give it once."
            )
