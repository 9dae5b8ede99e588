"""Files that appear whole or not at all, and JSON with equal bytes for equal values."""

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from neuron_opsd.errors import RunFolderError

logger = logging.getLogger(__name__)
JsonDict = dict[str, Any]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what more room mends


def cache_folder() -> Path:
    """The cache of converted models, digests and stages: $NEURON_OPSD_CACHE, else in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NEURON_OPSD_CACHE") or Path(base) / "neuron-opsd")


def dump_json(value: Any, *, is_ordered: bool = False) -> str:
    """JSON for diffs and equal bytes: keys sorted, or as they are where their order says something."""
    return json.dumps(value, indent=2, sort_keys=not is_ordered, ensure_ascii=False) + "\n"


def read_json(path: Path) -> JsonDict | None:
    """A JSON object. None if it is missing or damaged (a damaged one is named in the log)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        problem: object = "no JSON object"
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        problem = error
    logger.warning("%s cannot be read (%s). It is treated as missing", path, problem)
    return None


def read_json_lines(path: Path) -> list[JsonDict]:
    """The whole lines of a JSON-lines file. A damaged one is named, a last one cut by a crash is left out."""
    if not path.is_file():
        return []
    rows: list[JsonDict] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            logger.warning("%s:%d is damaged and left out", path, number)
    return rows


def write_text(path: Path, text: str) -> None:
    """Write a text file by rename."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file by rename, a line (with its end) at a time."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)

    write_atomically(path, write)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file beside the path, sync it to the disk, rename it into place."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "it is not a regular file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # a link of this name would be followed
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)  # the new name too
    finally:
        temporary.unlink(missing_ok=True)


def sync_tree(folder: Path, *, deep: bool = True) -> None:
    """Bring a folder (and, if deep, all that it holds) to the disk, as a rename that is to count needs."""
    for path in folder.rglob("*") if deep else ():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_plain(path: Path, flags: int) -> BinaryIO:
    """Open a file of our own, unbuffered. What another put there in its place (a link, a pipe, a device) is refused.

    Raises:
        OSError: it is not a regular file, has a second name, or cannot be opened.
    """
    # O_NONBLOCK: a pipe must not hold us up.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.ELOOP, "it is a link, or not a regular file. Remove it", str(path))
    mode = "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "r+b"
    return os.fdopen(descriptor, mode, buffering=0)  # pyright: ignore[reportReturnType]


def open_to_append(path: Path) -> TextIO:
    """Open a text file of our own to add lines at its end."""
    file = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8")  # pyright: ignore[reportArgumentType]


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_trustworthy(path: Path, *owners: int) -> bool:
    """Whether a regular file or folder is of this user, of root or of these owners, and nobody else may write to it.

    The rule of ssh for its keys. A symbolic link, a pipe or a device is never trusted.
    """
    try:
        found = path.lstat()
    except OSError:
        return False
    is_plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    is_writable_by_others = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return is_plain and not is_writable_by_others and found.st_uid in (os.getuid(), 0, *owners)


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn whatever fails while writing into an error that says what to do."""
    try:
        yield
    except OSError as error:
        # An error of another library has no number. It is a full disk as a rule.
        is_full = error.errno is None or error.errno in FULL
        way_out = "Free space, or choose another folder" if is_full else "Choose another folder"
        raise RunFolderError(
            f"Cannot write to {error.filename or path}: {error.strerror or error}. {way_out}. Finished shards are "
            "kept, and the same command resumes."
        ) from None


@contextlib.contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Explain a full or read-only disk, wherever in a run it shows. Other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EROFS):
            raise
        with explain_disk_errors(path):
            raise
