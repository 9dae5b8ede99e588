"""What a model is, as a hash: equal weights, settings and tokenizer give the same, wherever the folder lies."""

import hashlib
import json
from pathlib import Path

from neuron_opsd.model.gguf import cache_folder
from neuron_opsd.model.locate import hub_commit, resolve_model

SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja", ".bin")


def model_fingerprint(name: str) -> str:
    """A short hash of the model's files; for a hub name, of the name and the commit in the local cache."""
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        return hashlib.sha256(f"{name}@{hub_commit(name)}".encode()).hexdigest()[:16]
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    digests = {path.name: _file_digest(path) for path in files}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    """sha256 of a file; of large ones remembered by path, size and time of change."""
    stat = path.stat()
    if stat.st_size < 2**24:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    key = hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "digests" / key
    try:
        return note.read_text(encoding="utf-8")
    except OSError:
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(digest, encoding="utf-8")
    except OSError:
        pass  # a read-only cache costs time, nothing else
    return digest
