"""What a model is, as a hash: equal weights, settings and tokenizer give the same, wherever the folder is."""

import contextlib
import hashlib
import json
import re
from pathlib import Path

from neuron_opsd.model.locate import SUFFIXES, hub_commit, resolve_model
from neuron_opsd.store.files import cache_folder, file_digest, is_trustworthy, write_text

_DIGEST = re.compile("[0-9a-f]{64}")


def model_fingerprint(name: str) -> str:
    """A short hash of the model's files. For a hub name, of the name and the commit in the local cache."""
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        return hashlib.sha256(f"{name}@{hub_commit(name)}".encode()).hexdigest()[:16]
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    digests = {path.name: _file_digest(path) for path in files}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    """sha256 of a file. That of a large one is noted in the cache, for the file as it is now."""
    if path.stat().st_size < 2**24:
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
