"""What a model is, as a hash: equal weights, settings and tokenizer give the same, wherever the folder is."""

import hashlib
import json
from pathlib import Path

from neuron_opsd.model.locate import SUFFIXES, hub_commit, resolve_model
from neuron_opsd.store.digests import noted_digest


def model_fingerprint(name: str) -> str:
    """A short hash of the model's files. For a hub name, of the name and the commit in the local cache."""
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        return hashlib.sha256(f"{name}@{hub_commit(name)}".encode()).hexdigest()[:16]
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    digests = {path.name: noted_digest(path) for path in files}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]
