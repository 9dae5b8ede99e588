"""Settings that name files and folders."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from neuron_opsd.config.run import Config
from neuron_opsd.config.section import Section

PATHS = {
    "model": ("name", "chat_template"),
    "questions": ("path", "cross_paths"),
    "engine": ("adapter_root",),
    "contexts": ("other_path",),
    "evaluation": ("answers", "general_paths", "general_answers"),
}


FOLDERS = ("name", "adapter_root")  # elsewhere a folder's name may be that of a data set


def with_absolute_paths(config: Config) -> Config:
    """The same settings, with the whole path of every file and folder that exists. Other names stay."""
    sections: dict[str, Section] = {}
    for name, keys in PATHS.items():
        section = getattr(config, name)
        update = {key: _absolute(getattr(section, key), folders=key in FOLDERS) for key in keys}
        sections[name] = section.model_copy(update=update)
    return config.model_copy(update=sections)


def _absolute(value: Any, *, folders: bool) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_absolute(item, folders=folders) for item in cast("Iterable[str]", value))
    if value is None:
        return value
    try:
        path = Path(value).expanduser()
        is_there = path.exists() if folders else path.is_file()
        return type(value)(path.absolute()) if is_there else value
    except (OSError, RuntimeError):  # no name that a file could have
        return value
