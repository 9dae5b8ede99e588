"""The mark of a folder that neuron-opsd made. Nothing is written into, or removed from, a folder without it.

FOLDER/neuron_opsd.json   {"kind": "run" or "comparison", "made_by": "neuron-opsd"}
"""

import re
from pathlib import Path

from neuron_opsd.errors import RunFolderError
from neuron_opsd.store.files import dump_json, explain_disk_errors, read_json, write_text

MARK = "neuron_opsd.json"
# A process killed before it wrote the mark leaves no more than these. macOS puts .DS_Store into any folder.
_TRACE = re.compile(rf"\.DS_Store|\.lock|\.{re.escape(MARK)}\.\d+\.tmp")


def claim(folder: Path, kind: str) -> None:
    """Make a new or empty folder ours. One that is ours already is taken as it is.

    Raises:
        RunFolderError: as `check_claimable`, or the folder is not writable.
    """
    check_claimable(folder, kind)
    if not _has_mark(folder, kind):
        with explain_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / MARK, dump_json(_mark(kind)))


def check_claimable(folder: Path, kind: str) -> None:
    """Refuse what `claim` would refuse. Nothing is written.

    Raises:
        RunFolderError: the path is a file, or a folder of somebody else's.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file, so it cannot be a {kind} folder. Give another folder.")
    is_new = not folder.is_dir() or all(_TRACE.fullmatch(path.name) for path in folder.iterdir())
    if not is_new and not _has_mark(folder, kind):
        raise RunFolderError(
            _refusal(folder, kind) + " Nothing in it was changed. Give an empty or new folder."
        )


def require_mark(folder: Path, kind: str) -> None:
    """Refuse a folder that is not ours.

    Raises:
        RunFolderError: says what is missing.
    """
    if not _has_mark(folder, kind):
        command = {"run": "run", "comparison": "compare"}[kind]
        raise RunFolderError(f"{_refusal(folder, kind)} Start one with `neuron-opsd {command}`.")


def _mark(kind: str) -> dict[str, str]:
    return {"kind": kind, "made_by": "neuron-opsd"}


def _has_mark(folder: Path, kind: str) -> bool:
    return (folder / MARK).is_file() and read_json(folder / MARK) == _mark(kind)


def _refusal(folder: Path, kind: str) -> str:
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "it does not exist"
        return f"{folder} is not a {kind} folder: {what}."
    if (folder / MARK).exists():
        return f"{folder} is not a {kind} folder: its {MARK} says something else."
    return f"{folder} is not a {kind} folder: it has no {MARK}."
