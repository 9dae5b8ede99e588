"""The processes of one training, where `accelerate launch` started several. Alone, everything here is trivial.

The main process holds the run's lock, decides, and writes. The others train beside it. Whatever they must know alike,
it tells them.
"""

import os
from typing import Any, TypeVar

from neuron_opsd.errors import ConfigError

T = TypeVar("T")


def num_processes() -> int:
    """How many processes the launcher started.

    Raises:
        ConfigError: the environment says something that is no number.
    """
    return max(environment_number("WORLD_SIZE", default=1), 1)


def environment_number(name: str, *, default: int) -> int:
    """A whole number of the environment, as launchers set it.

    Raises:
        ConfigError: it is something else.
    """
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError(
            f"The environment variable {name} is {text[:40]!r}. It must be a whole number, as `accelerate launch` "
            "sets it. Unset it."
        )
    return int(text)


def is_main() -> bool:
    """Whether this process decides and writes."""
    return os.environ.get("RANK", "0") == "0"


def is_sharded() -> bool:
    """Whether the launcher spreads the model's weights over the processes (FSDP or DeepSpeed)."""
    return any(
        os.environ.get(name, "false").lower() == "true"
        for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    )


def from_main(value: T) -> T:
    """The main process's value, in every process. All of them wait here for one another."""
    if num_processes() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _state()
    return broadcast_object_list([value])[0]


def wait_for_all() -> None:
    """Go on once every process is here."""
    if num_processes() > 1:
        _state().wait_for_everyone()


def leave() -> None:
    """End the group in order, as the last thing that is done: a process whose peer is gone may abort."""
    if num_processes() > 1:
        wait_for_all()
        _state().destroy_process_group()


def _state() -> Any:
    """Accelerate's, which joins the processes the first time."""
    from accelerate import PartialState

    return PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true")
