"""The sha256 of large files, noted in the user's cache, so that gigabytes are not read again at every question."""

import contextlib
import hashlib
import re
from pathlib import Path

from neuron_opsd.store.files import cache_folder, file_digest, is_trustworthy, write_text

LARGE = 2**24  # bytes: hashing less takes no time that anybody notices
_DIGEST = re.compile("[0-9a-f]{64}")


def noted_digest(path: Path) -> str:
    """sha256 of a file. That of a large one is noted in the cache, for the file as it is now."""
    if path.stat().st_size < LARGE:
        return file_digest(path)
    note = cache_folder() / "digests" / _note_name(path)
    if (noted := _read_note(note)) is not None:
        return noted
    digest = file_digest(path)
    # A cache that is full or read-only costs time, nothing else.
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, digest)
        note.chmod(0o644)  # under a loose umask it would not be believed
    return digest


def _note_name(path: Path) -> str:
    """Another name for another file or other content. `cp -p` keeps size and mtime, but not all of these."""
    stat = path.stat()
    seen = (path.resolve(), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return hashlib.sha256(":".join(map(str, seen)).encode()).hexdigest()


def _read_note(note: Path) -> str | None:
    """A full digest, or None: a note that is missing, cut short or foreign is not believed."""
    if not is_trustworthy(note):
        return None
    try:
        text = note.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if _DIGEST.fullmatch(text) else None
