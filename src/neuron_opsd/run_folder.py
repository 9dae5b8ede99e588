"""The disk layout of one run; nothing else reads or writes it.

    RUN/config.yaml           every setting, resolved
    RUN/environment.json      versions and devices
    RUN/timings.jsonl         wall times (equal runs differ here, in environment.json and in report.html's footer alone)
    RUN/STAGE/manifest.json   what the stage depends on, its shards with checksums, its summary
    RUN/STAGE/part-00000.parquet ...   the records
    RUN/STAGE/records.jsonl   the same for the eye, without token ids and neuron ids
    RUN/model/                the published model
    RUN/report.html, report.md

A stage's fingerprint covers all that it depends on. A stage whose fingerprint changed is remade, and says why; one that
was interrupted goes on at its first missing shard. Files appear by rename, whole, or not at all.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from neuron_opsd.config import Config, check_config
from neuron_opsd.errors import RunFolderError

logger = logging.getLogger(__name__)
Record = TypeVar("Record")
JsonDict = dict[str, Any]

READ_BY_OTHERS = ("questions", "rollouts", "neurons", "selection", "contexts")


class RunFolder:
    """One run on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """Make the folder, or take an existing run whose settings become these; stages that this outdates are remade.

        The settings are written by `write_config`, under the lock: a run that another process holds is not touched.

        Raises:
            RunFolderError: the path is a file, not writable, or a folder with other things in it.
        """
        run = cls(path)
        if run.path.exists() and not run.path.is_dir():
            raise RunFolderError(f"{path} is a file, so it cannot be a run folder. Give another --output.")
        # A process killed before it wrote its settings leaves no more than its lock and a half-written file.
        if (
            run.path.is_dir()
            and not run.config_file.exists()
            and any(not _is_own_trace(p) for p in run.path.iterdir())
        ):
            raise RunFolderError(
                f"{path} is not empty and is no run folder. Give an empty or new folder as --output."
            )
        with explain_disk_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        return run

    def write_config(self, config: Config) -> None:
        """Make these the run's settings; call it under the lock."""
        with explain_disk_errors(self.path):
            write_text(self.config_file, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Take an existing run.

        Raises:
            RunFolderError: there is none.
        """
        run = cls(path)
        if not run.config_file.is_file():
            raise RunFolderError(
                f"{path} is no run folder: it has no config.yaml. Start one with `neuron-opsd run`."
            )
        return run

    @property
    def config_file(self) -> Path:
        """Where the settings lie."""
        return self.path / "config.yaml"

    def config(self) -> Config:
        """The run's settings, checked again."""
        return check_config(yaml.safe_load(self.config_file.read_text(encoding="utf-8")))

    def stage(self, name: str) -> "StageFolder":
        """The folder of one stage, whether or not it exists yet."""
        return StageFolder(self.path / name, name)

    def is_current(self, name: str) -> bool:
        """Whether a stage is finished and was made from what the stages before it hold now.

        A stage's inputs name each stage that it read with that stage's fingerprint.
        """
        stage = self.stage(name)
        manifest = stage.manifest()
        if manifest is None or not stage.is_finished():
            return False
        read = {
            key: value
            for key, value in manifest["inputs"].items()
            if key in READ_BY_OTHERS and isinstance(value, str)
        }
        return all(
            self.is_current(key) and self.stage(key).fingerprint() == value for key, value in read.items()
        )

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, keys sorted, by rename."""
        with explain_disk_errors(self.path):
            write_text(self.path / name, dump_json(value))

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run; None if there is none."""
        return read_json(self.path / name)

    def add_timing(self, row: JsonDict) -> None:
        """Append one line to timings.jsonl."""
        with (
            explain_disk_errors(self.path),
            (self.path / "timings.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(row) + "\n")

    def timings(self) -> list[JsonDict]:
        """All lines of timings.jsonl."""
        return read_json_lines(self.path / "timings.jsonl")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process. The kernel frees the lock when the holder dies, however it dies.

        Raises:
            RunFolderError: another process holds it; the message names it.
        """
        with explain_disk_errors(self.path), (self.path / ".lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunFolderError(
                    f"{self.path} is in use by {holder}. Wait for it, or use another folder."
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        """Remove what a killed process left half-written; under the lock nobody else is writing."""
        for pattern in (".*.tmp", ".*.partial"):
            for path in list(self.path.rglob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class StageFolder:
    """The records of one stage: a manifest and Parquet shards."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    @property
    def command(self) -> str:
        """The command that makes this stage."""
        return {"selection": "select", "training": "train"}.get(self.name, self.name.split("/")[0])

    def manifest(self) -> JsonDict | None:
        """The manifest, or None where the stage has not begun (or its manifest is damaged)."""
        return read_json(self.path / "manifest.json")

    def fingerprint(self) -> str:
        """What later stages depend on.

        Raises:
            RunFolderError: the stage is not finished.
        """
        return self._finished()["fingerprint"]

    def summary(self) -> JsonDict:
        """The stage's own figures, as given to `finish`."""
        return self._finished()["summary"]

    def is_finished(self, inputs: JsonDict | None = None) -> bool:
        """Whether all is there, intact, and (where `inputs` are given) made from these."""
        manifest = self.manifest()
        if not manifest or not manifest["complete"]:
            return False
        if inputs is not None and manifest["fingerprint"] != fingerprint_of(inputs):
            return False
        return all(self._is_intact(shard) for shard in manifest["shards"])

    def begin(self, inputs: JsonDict) -> int:
        """Make the stage ready to be (re)made from these inputs, keeping intact shards made from the same.

        Returns:
            The number of leading shards that are finished.
        """
        manifest = self.manifest()
        if manifest and manifest["fingerprint"] != fingerprint_of(inputs):
            logger.info("%s: remade, because %s", self.name, describe_change(manifest["inputs"], inputs))
            manifest = None
        intact: list[JsonDict] = []
        for shard in manifest["shards"] if manifest else []:
            if not self._is_intact(shard):
                logger.warning(
                    "%s: %s is missing or damaged; it and what follows are remade", self.name, shard["file"]
                )
                break
            intact.append(shard)
        with explain_disk_errors(self.path):
            if manifest is None:
                shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_manifest(inputs, intact, complete=False, summary={})
        return len(intact)

    def add_shard(self, records: Sequence[Any], record_type: type) -> None:
        """Write one more shard and enter it in the manifest."""
        manifest = self._manifest_or_raise()
        shards = manifest["shards"]
        file = f"part-{len(shards):05d}.parquet"
        with explain_disk_errors(self.path):
            table = to_table(records, record_type)
            write_atomically(self.path / file, lambda path: write_parquet(table, path, record_type))
            entry = {"file": file, "num_records": len(records), "sha256": file_digest(self.path / file)}
            self._write_manifest(manifest["inputs"], [*shards, entry], complete=False, summary={})

    def finish(self, summary: JsonDict, record_type: type | None = None) -> None:
        """Mark the stage complete, and write its records for the eye."""
        manifest = self._manifest_or_raise()
        with explain_disk_errors(self.path):
            if record_type is not None:
                lines = (
                    json.dumps(readable(record), ensure_ascii=False) for record in self.read(record_type)
                )
                write_text(self.path / "records.jsonl", "".join(line + "\n" for line in lines))
            self._write_manifest(manifest["inputs"], manifest["shards"], complete=True, summary=summary)

    def read(self, record_type: type[Record]) -> list[Record]:
        """All records of the finished shards, in order.

        Raises:
            RunFolderError: a shard is damaged.
        """
        records: list[Record] = []
        for shard in self._manifest_or_raise()["shards"]:
            try:
                table = pq.read_table(self.path / shard["file"])
            except (OSError, pa.ArrowException) as error:
                raise RunFolderError(
                    f"{self.path / shard['file']} cannot be read ({error}). Run the stage again: it remakes the shard."
                ) from None
            records += from_table(table, record_type)
        return records

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
                f"{self.name} in {self.path.parent} is not finished. Run it again; it resumes."
            )
        return manifest

    def _is_intact(self, shard: JsonDict) -> bool:
        path = self.path / shard["file"]
        return path.is_file() and file_digest(path) == shard["sha256"]

    def _write_manifest(
        self, inputs: JsonDict, shards: list[JsonDict], *, complete: bool, summary: JsonDict
    ) -> None:
        manifest = {
            "stage": self.name,
            "fingerprint": fingerprint_of(inputs),
            "complete": complete,
            "num_records": sum(shard["num_records"] for shard in shards),
            "shards": shards,
            "summary": summary,
            "inputs": inputs,
        }
        write_text(self.path / "manifest.json", dump_json(manifest))


def _is_own_trace(path: Path) -> bool:
    return path.name == ".lock" or path.name.endswith(".tmp")


def fingerprint_of(inputs: JsonDict) -> str:
    """A short hash of everything that a stage depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def describe_change(old: JsonDict, new: JsonDict) -> str:
    """Which inputs differ, in words: "rollouts.temperature was 0.6 and is 0.7"."""
    before, after = _flatten(old), _flatten(new)
    changed = [key for key in sorted(before | after) if before.get(key) != after.get(key)]
    parts = [f"{key} was {before.get(key)!r} and is {after.get(key)!r}" for key in changed[:4]]
    return "; ".join(parts) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")


def _flatten(tree: JsonDict, prefix: str = "") -> JsonDict:
    flat: JsonDict = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def to_table(records: Sequence[Any], record_type: type) -> pa.Table:
    """Dataclass records as an Arrow table, a column for each field."""
    schema = schema_of(record_type)
    columns = [[_plain(getattr(record, field.name)) for record in records] for field in schema]
    return pa.Table.from_arrays(
        [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


def write_parquet(table: pa.Table, path: Path, record_type: type) -> None:
    """Write a table of `to_table`; arrays, which hold ascending ids, as their differences: a third of the size."""
    hints = typing.get_type_hints(record_type)
    leaves = {
        name: f"{name}.list.element" for name, hint in hints.items() if typing.get_origin(hint) is np.ndarray
    }
    options: JsonDict = {}
    if leaves:  # Parquet gives a column a dictionary or another encoding
        others = [pq_path for name in table.column_names for pq_path in (name, f"{name}.list.element")]
        options["use_dictionary"] = [name for name in others if name not in leaves.values()]
        options["column_encoding"] = dict.fromkeys(leaves.values(), "DELTA_BINARY_PACKED")
    pq.write_table(table, path, compression="zstd", **options)


def from_table(table: pa.Table, record_type: type[Record]) -> list[Record]:
    """Arrow table to dataclass records; the inverse of `to_table`."""
    hints = typing.get_type_hints(record_type)
    columns = [
        [_restore(value, hints[name]) for value in _python_column(table.column(name), hints[name])]
        for name in hints
    ]
    return [record_type(**dict(zip(hints, row, strict=True))) for row in zip(*columns, strict=True)]


def schema_of(record_type: type) -> pa.Schema:
    """The Arrow schema of a record type, from its annotations."""
    hints = typing.get_type_hints(record_type)
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in hints.items()])


def readable(record: Any) -> JsonDict:
    """A record as JSON for the eye: without token ids, log-probabilities and neuron ids."""
    hidden = {"prompt_ids", "completion_ids", "token_log_probs", "overlap_set"}
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: _plain(value) for name, value in values.items() if name not in hidden}


def _arrow_type(hint: Any) -> pa.DataType:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _arrow_type(next(argument for argument in arguments if argument is not type(None)))
    if origin is tuple:
        # Long lists of numbers: 32 bits are enough for token ids, neuron ids and log-probabilities.
        item = {int: pa.int32(), float: pa.float32()}.get(arguments[0]) or _arrow_type(arguments[0])
        return pa.list_(item)
    if origin is np.ndarray or hint is np.ndarray:
        return pa.list_(pa.int32())
    if dataclasses.is_dataclass(hint):
        return pa.struct(list(schema_of(typing.cast(type, hint))))
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[hint]


def _python_column(column: pa.ChunkedArray, hint: Any) -> Iterable[Any]:
    if typing.get_origin(hint) is np.ndarray:
        return [scalar.values.to_numpy(zero_copy_only=False) for scalar in column]
    return column.to_pylist()


def _restore(value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(inner):
            hints = typing.get_type_hints(inner)
            cls = typing.cast(Any, inner)
            return tuple(cls(**{key: _restore(item[key], hints[key]) for key in hints}) for item in value)
        return tuple(value)
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


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


def write_atomically(path: Path, write: typing.Callable[[Path], object]) -> None:
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
