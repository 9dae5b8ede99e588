"""Shards on their way into a stage: their files, and an inbox for processes that do not hold the run's lock."""

import contextlib
import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from neuron_opsd.store.arrow import to_table, write_parquet
from neuron_opsd.store.files import (
    JsonDict,
    dump_json,
    explain_disk_errors,
    file_digest,
    read_json,
    write_atomically,
    write_text,
)


class ShardInbox:
    """Shards of one stage and fingerprint that wait for the lock's holder. Each has its entry beside it.

    Array tasks write here side by side, so nothing is shared: a shard counts when its entry is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Indices of shards that are missing or corrupted."""
        there = {
            shard_index(entry)
            for entry in self._entries()
            if (file := self.path / entry["file"]).is_file() and file_digest(file) == entry["sha256"]
        }
        return [index for index in indices if index not in there]

    def write_shard(self, index: int, records: Sequence[Any], record_type: type) -> JsonDict:
        """See `StageFolder.write_shard`."""
        with explain_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        return write_shard_file(self.path, index, records, record_type)

    def enter(self, entry: JsonDict) -> None:
        """See `StageFolder.enter`. Any process may."""
        with explain_disk_errors(self.path):
            write_text(self.path / f"{entry['file']}.json", dump_json(entry))

    def move_to(self, folder: Path, *, known: Container[int]) -> list[JsonDict]:
        """Move the shards that are not known yet. A run killed midway finds those it moved."""
        entries = [entry for entry in self._entries() if shard_index(entry) not in known]
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path / entry["file"], folder / entry["file"])
        return entries

    def _entries(self) -> list[JsonDict]:
        files = sorted(self.path.glob("part-*.parquet.json"))
        entries = [(file.stem, read_json(file)) for file in files]
        return [entry for name, entry in entries if entry and _is_entry_of(name, entry)]


def _is_entry_of(name: str, entry: JsonDict) -> bool:
    return entry.keys() == {"file", "num_records", "sha256"} and entry["file"] == name


def shard_index(entry: JsonDict) -> int:
    """The place of a shard among those of its stage: `part-00007.parquet` is 7."""
    return int(Path(entry["file"]).stem.removeprefix("part-"))


def write_shard_file(folder: Path, index: int, records: Sequence[Any], record_type: type) -> JsonDict:
    """Write one shard's file by rename, and describe it."""
    file = f"part-{index:05d}.parquet"
    with explain_disk_errors(folder):
        table = to_table(records, record_type)
        write_atomically(folder / file, lambda path: write_parquet(table, path, record_type))
        return {"file": file, "num_records": len(records), "sha256": file_digest(folder / file)}
