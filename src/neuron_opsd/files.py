"""Files that appear whole or not at all, and JSON with equal bytes for equal values."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from neuron_opsd.errors import RunFolderError

logger = logging.getLogger(__name__)
JsonDict = dict[str, Any]


def dump_json(value: Any) -> str:
    """JSON with sorted keys, for diffs and equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """A JSON file; None if it is missing or damaged (a damaged one is named in the log)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        logger.warning("%s cannot be read (%s) and is taken as missing", path, error)
        return None


def read_json_lines(path: Path) -> list[JsonDict]:
    """The whole lines of a JSON-lines file; a last line cut by a crash is left out."""
    if not path.is_file():
        return []
    rows: list[JsonDict] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def write_text(path: Path, text: str) -> None:
    """Write a text file by rename."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file beside the path, sync it to the disk, rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"Cannot write to {path}: {error.strerror or error}. Free space or choose another folder; "
            "finished shards are kept, and the same command resumes."
        ) from None
