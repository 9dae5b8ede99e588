"""The records of one stage on disk: a manifest and Parquet shards.

A stage's fingerprint covers all that it depends on. A stage whose fingerprint changed is remade, and says why. One that
was interrupted goes on with the shards that are missing.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neuron_opsd.config.graph import command_of
from neuron_opsd.errors import RunFolderError
from neuron_opsd.store.arrow import Record, iterate_file, readable
from neuron_opsd.store.files import (
    JsonDict,
    dump_json,
    explain_disk_errors,
    file_digest,
    read_json,
    write_lines,
    write_text,
)
from neuron_opsd.store.shard_inbox import ShardInbox, shard_index, write_shard_file

logger = logging.getLogger(__name__)
_HASH = re.compile("[0-9a-f]{16}")
_ABSENT = "\0absent"  # no setting has this value
READER = "reader"  # among a stage's inputs: how its answers were read out of replies


class StageFolder:
    """The records of one stage: a manifest and Parquet shards."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    @property
    def command(self) -> str:
        """The command that makes this stage."""
        return command_of(self.name) or self.name

    def manifest(self) -> JsonDict | None:
        """The manifest, or None where the stage has not begun (or its manifest is damaged: the log names it)."""
        file = self.path / "manifest.json"
        manifest = read_json(file)
        if manifest is None:
            return None
        if manifest.pop("checksum", None) != fingerprint_of(manifest):
            logger.warning(
                "%s is corrupted (checksum mismatch). Stage %s will be recomputed", file, self.name
            )
            return None
        return manifest

    def fingerprint(self) -> str:
        """What later stages depend on.

        Raises:
            RunFolderError: the stage is not finished.
        """
        return self._finished()["fingerprint"]

    def samples_fingerprint(self) -> str:
        """What stages depend on that read this one's samples, but not their answers.

        Raises:
            RunFolderError: the stage is not finished.
        """
        return fingerprint_of(without_reader(self._finished()["inputs"]))

    def summary(self) -> JsonDict:
        """The stage's own figures, as given to `finish`."""
        return self._finished()["summary"]

    def require(self, inputs: JsonDict) -> None:
        """Refuse to go on from a stage that is not finished, or was made from other inputs.

        Raises:
            RunFolderError: says what differs and what to run.
        """
        manifest = self._finished()
        if manifest["fingerprint"] != fingerprint_of(inputs):
            raise RunFolderError(
                f"{self.name} in {self.path} is outdated: {describe_change(manifest['inputs'], inputs)}. "
                f"Run `neuron-opsd {self.command} RUN` first. It is recomputed from the settings of config.yaml."
            )

    def is_finished(self, inputs: JsonDict | None = None) -> bool:
        """Whether all is there, intact, and (where `inputs` are given) made from these."""
        manifest = self.manifest()
        if not manifest or not manifest["complete"]:
            return False
        if inputs is not None and manifest["fingerprint"] != fingerprint_of(inputs):
            return False
        return not self.wrong_files()

    def file_names(self) -> list[str]:
        """The files that the stage answers for, relative to its folder."""
        manifest = self._manifest_or_raise()
        return [file["file"] for file in (*manifest["shards"], *manifest["files"])]

    def wrong_files(self, *, at_a_glance: bool = False) -> list[str]:
        """The files that are missing or not as the manifest has them. At a glance: missing or cut short."""
        manifest = self._manifest_or_raise()
        files = [*manifest["shards"], *manifest["files"]]
        is_right = self._looks_whole if at_a_glance else self._is_intact
        return [file["file"] for file in files if not is_right(file)]

    def why_again(self, inputs: JsonDict) -> str | None:
        """What differs between the inputs of the records that are there and these. None if nothing does."""
        manifest = self.manifest()
        if manifest is None or same_inputs(manifest["inputs"], inputs):
            return None
        return describe_change(manifest["inputs"], inputs)

    def begin(self, inputs: JsonDict, num_shards: int = 1) -> list[int]:
        """Make the stage ready to be (re)made from these inputs, keeping intact shards made from the same.

        Returns:
            The indices of the shards that are missing.
        """
        manifest = self.manifest()
        if manifest and not same_inputs(manifest["inputs"], inputs):
            manifest = None
        with explain_disk_errors(self.path):
            if manifest is None:
                shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True, exist_ok=True)
            before = manifest or {"shards": [], "files": []}
            shards, _ = self._intact(before["shards"]), self._intact(before["files"])
            known = {shard_index(shard) for shard in shards}
            shards += self._intact(self.inbox(inputs).move_to(self.path, known=known))
            self._write_manifest(inputs, shards, complete=False, summary={})
        self.clear_inboxes()
        return sorted(set(range(num_shards)) - {shard_index(shard) for shard in shards})

    def add_shard(self, records: Sequence[Any], record_type: type, index: int = 0) -> None:
        """Write one shard and enter it in the manifest."""
        self.enter(self.write_shard(index, records, record_type))

    def write_shard(self, index: int, records: Sequence[Any], record_type: type) -> JsonDict:
        """Write the file of one shard. Any process may.

        Returns:
            Its entry, for `enter`.
        """
        return write_shard_file(self.path, index, records, record_type)

    def enter(self, entry: JsonDict) -> None:
        """Enter a written shard in the manifest. The process that holds the run's lock alone may."""
        manifest = self._manifest_or_raise()
        others = [shard for shard in manifest["shards"] if shard["file"] != entry["file"]]
        with explain_disk_errors(self.path):
            self._write_manifest(manifest["inputs"], [*others, entry], complete=False, summary={})

    @property
    def _inboxes(self) -> Path:
        return self.path.with_name(f"{self.path.name}.inbox")

    def inbox(self, inputs: JsonDict) -> ShardInbox:
        """Where processes that do not hold the lock leave shards made from these inputs."""
        return ShardInbox(self._inboxes / fingerprint_of(inputs))

    def clear_inboxes(self) -> None:
        """Remove what was left there, for these inputs and others. Call it under the lock."""
        shutil.rmtree(self._inboxes, ignore_errors=True)

    def finish(
        self, summary: JsonDict, record_type: type | None = None, *, files: Sequence[Path] = ()
    ) -> None:
        """Mark the stage complete, and write its records for the eye.

        Args:
            summary: The stage's own figures.
            record_type: Of the records that `records.jsonl` is to show.
            files: What the stage has made beside its records. If one is changed or lost, the stage is not finished.
        """
        manifest, files = self._manifest_or_raise(), list(files)
        with explain_disk_errors(self.path):
            for unfinished in self.path.glob(".part-*.tmp"):  # of a worker that was killed as it wrote
                unfinished.unlink(missing_ok=True)
            if record_type is not None:
                files.append(self.path / "records.jsonl")
                lines = (
                    json.dumps(readable(record), ensure_ascii=False) + "\n"
                    for record in self.iterate(record_type)
                )
                write_lines(self.path / "records.jsonl", lines)
            entries = [
                {"file": os.path.relpath(file, self.path), "sha256": file_digest(file)} for file in files
            ]
            self._write_manifest(
                manifest["inputs"], manifest["shards"], complete=True, summary=summary, files=entries
            )

    def read(self, record_type: type[Record]) -> list[Record]:
        """All records of the finished shards, in order.

        Raises:
            RunFolderError: a shard is damaged.
        """
        return list(self.iterate(record_type))

    def iterate(self, record_type: type[Record]) -> Iterator[Record]:
        """The same one by one, a shard in memory at a time: a stage of rollouts may be larger than memory."""
        for shard in self._manifest_or_raise()["shards"]:
            yield from self._read_file(shard, record_type)

    def read_shard(self, index: int, record_type: type[Record]) -> list[Record]:
        """The records of one finished shard.

        Raises:
            RunFolderError: it is not there, or damaged.
        """
        shards = self._manifest_or_raise()["shards"]
        shard = next((shard for shard in shards if shard_index(shard) == index), None)
        if shard is None:
            raise RunFolderError(
                f"{self.path} has no shard {index} yet. Run `neuron-opsd {self.command} RUN` first."
            )
        return list(self._read_file(shard, record_type))

    def _read_file(self, shard: JsonDict, record_type: type[Record]) -> Iterator[Record]:
        if not self._is_intact(shard):
            raise RunFolderError(
                f"{self.path / shard['file']} is missing or damaged. Run `neuron-opsd {self.command} RUN` again. "
                "It recomputes the shard."
            )
        yield from iterate_file(self.path / shard["file"], record_type)

    def num_records(self) -> int:
        """Records in the finished shards."""
        return sum(shard["num_records"] for shard in (self.manifest() or {"shards": []})["shards"])

    def _manifest_or_raise(self) -> JsonDict:
        manifest = self.manifest()
        if manifest is None:
            raise RunFolderError(
                f"{self.path} has no records yet. Run `neuron-opsd {self.command} RUN` first."
            )
        return manifest

    def _finished(self) -> JsonDict:
        manifest = self._manifest_or_raise()
        if not manifest["complete"]:
            raise RunFolderError(
                f"{self.name} in {self.path.parent} is not finished. Run it again. It resumes."
            )
        return manifest

    def _looks_whole(self, file: JsonDict) -> bool:
        path = self.path / file["file"]
        if path.suffix != ".parquet" or not path.is_file():
            return path.is_file()
        with path.open("rb") as content:
            content.seek(-min(4, path.stat().st_size), os.SEEK_END)
            return content.read() == b"PAR1"  # Parquet's last bytes

    def _intact(self, files: Sequence[JsonDict]) -> list[JsonDict]:
        """Entries of the files that are intact. The log names the others."""
        intact = [file for file in files if self._is_intact(file)]
        for file in files:
            if file not in intact:
                logger.warning(
                    "%s: %s is missing or corrupted and will be recomputed",
                    self.name,
                    self.path / file["file"],
                )
        return intact

    def _is_intact(self, shard: JsonDict) -> bool:
        path = self.path / shard["file"]
        return path.is_file() and file_digest(path) == shard["sha256"]

    def _write_manifest(
        self,
        inputs: JsonDict,
        shards: list[JsonDict],
        *,
        complete: bool,
        summary: JsonDict,
        files: Sequence[JsonDict] = (),
    ) -> None:
        manifest = {
            "stage": self.name,
            "fingerprint": fingerprint_of(inputs),
            "complete": complete,
            "num_records": sum(shard["num_records"] for shard in shards),
            "shards": sorted(shards, key=shard_index),
            "files": list(files),
            "summary": summary,
            "inputs": inputs,
        }
        write_text(self.path / "manifest.json", dump_json(manifest | {"checksum": fingerprint_of(manifest)}))


def fingerprint_of(inputs: JsonDict) -> str:
    """A short hash of everything that a stage depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def same_inputs(first: JsonDict, second: JsonDict) -> bool:
    """Whether two stages depend on the same, by their JSON: Python takes `False` for 0, and a prompt need not."""
    return fingerprint_of(first) == fingerprint_of(second)


def without_reader(inputs: JsonDict) -> JsonDict:
    """What a stage depends on but for the reader of its answers, which can read stored replies again."""
    return {name: value for name, value in inputs.items() if name != READER}


def safe_name(text: str) -> str:
    """A readable name that is safe in a path. What had to be replaced is told apart by a hash."""
    safe = re.sub(r"[^\w.-]+", "_", text).strip("._") or "_"
    return safe if safe == text else f"{safe}-{fingerprint_of({'text': text})[:6]}"


def describe_change(old: JsonDict, new: JsonDict) -> str:
    """Which inputs differ, in words: "rollouts.temperature was 0.6 and is 0.7". Of hashes, that they differ."""
    before, after = _flatten(old), _flatten(new)
    changed = [
        key for key in sorted(before | after)
        if json.dumps([before.get(key, _ABSENT)]) != json.dumps([after.get(key, _ABSENT)])
    ]  # fmt: skip
    # What was set tells more than what follows from it.
    changed.sort(key=lambda key: key.endswith(".records"))
    parts = [_describe(key, before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in changed[:4]]
    return "; ".join(parts) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")


def _describe(key: str, old: Any, new: Any) -> str:
    if key.endswith(".records"):
        return f"{key.removesuffix('.records')} changed"
    if any(isinstance(value, str) and _HASH.fullmatch(value) for value in (old, new)):
        return f"{key} changed"
    was, now = ("absent" if value == _ABSENT else repr(value) for value in (old, new))
    return f"{key} was {was} and is {now}"


def _flatten(tree: JsonDict, prefix: str = "") -> JsonDict:
    flat: JsonDict = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value})
    return flat


def add_only_shard(stage: StageFolder, inputs: dict[str, Any], records: list[Any], kind: type) -> None:
    """The shard of a stage that has one. A run killed just after writing it has it already."""
    if stage.begin(inputs):
        stage.add_shard(records, kind)
