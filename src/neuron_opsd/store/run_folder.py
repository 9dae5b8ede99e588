"""The disk layout of one run.

    RUN/neuron_opsd.json      the mark of a folder that is ours
    RUN/config.yaml           every setting, resolved
    RUN/environment.json      versions and devices
    RUN/timings.jsonl         wall times (equal runs differ here, in environment.json and in report.html's footer alone)
    RUN/STAGE/manifest.json   what the stage depends on, its shards with checksums, its summary
    RUN/STAGE/part-00000.parquet ...   the records
    RUN/STAGE/records.jsonl   the same for the eye, without token ids and neuron ids
    RUN/model/                the published model
    RUN/SHA256SUMS            checksums of the files of figures, of the model card and of report.md
    RUN/report.html, report.md, report.html.sha256

Files appear by rename, whole, or not at all. `stage_folder.py` has one stage, `files.py` the writing.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import yaml

from neuron_opsd.config import Config, read_config, with_absolute_paths
from neuron_opsd.config.graph import STAGES_BEFORE
from neuron_opsd.errors import RunFolderError
from neuron_opsd.results import load
from neuron_opsd.store.files import (
    JsonDict,
    dump_json,
    explain_disk_errors,
    explain_full_disk,
    file_digest,
    open_plain,
    open_to_append,
    read_json,
    read_json_lines,
    write_text,
)
from neuron_opsd.store.own_folder import claim, require_mark
from neuron_opsd.store.stage_folder import StageFolder

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

MODEL_CARD = "model/README.md"
RESULTS = "evaluation/results.json"
TEACHER_GAP = "evaluation/teacher_gap.json"
HARNESS_RESULTS = "harness/results.json"  # of `neuron-opsd harness`
SUMS = "SHA256SUMS"  # of the files of figures, the model card and report.md. `sha256sum -c` reads it
PAGE, PAGE_SUM = "report.html", "report.html.sha256"  # apart: equal runs differ in the page's footer
_OWN_FOLDERS = sorted({name.split("/")[0] for name in STAGES_BEFORE} | {"harness", "model"})
# Names that our own writing gives what is not whole yet: of `files`, of the cache, of checkpoints, of the model.
_LEFTOVER = re.compile(
    rf"\..+\.\d+\.tmp|\.({'|'.join(_OWN_FOLDERS)}|base|trained|checkpoints|checkpoint-\d+)\.partial"
    r"|\.(model|optimizer)\.tmp"
)


class RunFolder:
    """One run on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """Make the folder, or take an existing run whose settings become these. Stages that this outdates are remade.

        The settings are written by `write_config`, under the lock: a run that another process holds is not touched.

        Raises:
            RunFolderError: the path is a file, not writable, or a folder of somebody else's.
        """
        claim(Path(path), "run")
        return cls(path)

    def write_config(self, config: Config) -> None:
        """Make these the run's settings. Call it under the lock."""
        # Absolute, so that the run can be looked at from anywhere.
        text = yaml.safe_dump(with_absolute_paths(config).as_tree(), sort_keys=False)
        with explain_disk_errors(self.path):
            write_text(self.config_file, text)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Take an existing run.

        Raises:
            RunFolderError: there is none.
        """
        run = cls(path)
        require_mark(run.path, "run")
        if not run.config_file.is_file():
            raise RunFolderError(
                f"{path} is not a run folder: it has no config.yaml. Start one with `neuron-opsd run`."
            )
        return run

    @property
    def config_file(self) -> Path:
        """The file of the settings."""
        return self.path / "config.yaml"

    @property
    def model_folder(self) -> Path:
        """Where the trained model is published."""
        return self.path / "model"

    def require_model(self) -> None:
        """Refuse to hand on a trained model that is not there, or not as training wrote it.

        Raises:
            RunFolderError: names the damaged files, or says what finishes training.
        """
        stage = self.stage("training")
        if stage.is_finished() and self.model_folder.is_dir():
            return
        wrong = stage.wrong_files() if stage.manifest() else []
        what = f"{', '.join(wrong)} is corrupted (checksum mismatch)" if wrong else "training is not finished"
        raise RunFolderError(
            f"{self.path} has no trained model: {what}. Run the same `neuron-opsd run` again. It resumes."
        )

    def config(self) -> Config:
        """The run's settings, checked again."""
        return read_config(self.config_file)

    def stage(self, name: str) -> StageFolder:
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
            name: value["records"]
            for name, value in manifest["inputs"].items()
            if isinstance(value, dict) and "records" in value
        }
        return all(
            self.is_current(name)
            and value in (self.stage(name).fingerprint(), self.stage(name).samples_fingerprint())
            for name, value in read.items()
        )

    def write_json(self, name: str, value: Any, *, is_ordered: bool = False) -> None:
        """Write a JSON file of the run by rename, keys sorted, or in their own order where that says something."""
        with explain_disk_errors(self.path):
            (self.path / name).parent.mkdir(exist_ok=True)
            write_text(self.path / name, dump_json(value, is_ordered=is_ordered))

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run. None if there is none, or a damaged one (the log names it)."""
        return read_json(self.path / name)

    def write_result(self, name: str, value: Any, *, is_ordered: bool = False) -> None:
        """Write a JSON file of figures, whose checksum is kept."""
        self.write_json(name, value, is_ordered=is_ordered)
        self.seal(name)

    def read_result(self, name: str) -> Any:
        """Read a file of figures. None if there is none, or one that was changed (the log names it)."""
        if (self.path / name).is_file() and self._sums(SUMS).get(name) != file_digest(self.path / name):
            logger.warning(
                "%s was changed after it was written, so it is left out. Make it again: `neuron-opsd %s RUN`.",
                self.path / name,
                _command_of(name),
            )
            return None
        return self.read_json(name)

    def load_result(self, name: str, kind: type[Result]) -> Result | None:
        """A file of figures as what it holds. None as in `read_result`, or where another version wrote it."""
        saved = self.read_result(name)
        try:
            return None if saved is None else load(kind, saved)
        except ValueError as error:
            logger.warning(
                "%s is not what this version writes (%s), so it is left out. Make it again: `neuron-opsd %s RUN`.",
                self.path / name, error, _command_of(name),
            )  # fmt: skip
            return None

    def remove_result(self, name: str) -> None:
        """Remove a file of figures that no longer belongs to this run."""
        (self.path / name).unlink(missing_ok=True)
        sums = self._sums(SUMS)
        if sums.pop(name, None):
            self._write_sums(SUMS, sums)

    def seal(self, name: str) -> None:
        """Keep the checksum of a file as it is now."""
        file = PAGE_SUM if name == PAGE else SUMS
        self._write_sums(file, self._sums(file) | {name: file_digest(self.path / name)})

    def is_sealed(self, name: str) -> bool:
        """Whether a file is there, and as it was when its checksum was taken."""
        file = self.path / name
        return file.is_file() and self._sums(SUMS).get(name) == file_digest(file)

    def changed_results(self) -> list[str]:
        """The files with a checksum that are missing or were changed since."""
        sums = self._sums(SUMS) | self._sums(PAGE_SUM)
        files = {name: self.path / name for name in sums}
        return [name for name, file in files.items() if not file.is_file() or file_digest(file) != sums[name]]

    def _sums(self, file: str) -> dict[str, str]:
        try:
            lines = (self.path / file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return {}
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}

    def _write_sums(self, file: str, sums: dict[str, str]) -> None:
        lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
        with explain_disk_errors(self.path):
            write_text(self.path / file, "".join(lines))

    def add_timing(self, row: JsonDict) -> None:
        """Append one line to timings.jsonl."""
        with (
            explain_disk_errors(self.path),
            open_to_append(self.path / "timings.jsonl") as file,
        ):
            file.write(json.dumps(row) + "\n")

    def timings(self) -> list[JsonDict]:
        """All lines of timings.jsonl."""
        return read_json_lines(self.path / "timings.jsonl")

    @contextlib.contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the run for this process. The kernel frees the lock when the holder dies, however it dies.

        Args:
            shared: Hold it beside others that share it too, and write to inboxes alone.

        Raises:
            RunFolderError: another process holds it. The message names it.
        """
        with self._open_lock(shared=shared), explain_full_disk(self.path):
            if not shared:  # the others may be writing
                self._remove_leftovers()
            yield

    def holder(self) -> str | None:
        """Who holds the run now, if anybody does."""
        try:
            file = open_plain(self.path / ".lock", os.O_RDONLY)
        except OSError:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _name_holder(file)
        return None

    @contextlib.contextmanager
    def _open_lock(self, *, shared: bool) -> Iterator[None]:
        with explain_disk_errors(self.path):
            # Unbuffered: closing must not write what failed before.
            file = open_plain(self.path / ".lock", os.O_RDWR | os.O_APPEND | os.O_CREAT)
        with file:
            if not _take_lock(file, shared=shared):
                raise RunFolderError(
                    f"{self.path} is in use by {_name_holder(file)}. Wait for it, or use another folder."
                )
            with explain_disk_errors(self.path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield

    def _remove_leftovers(self) -> None:
        """Remove what a killed process left half-written. Under the lock nobody else is writing."""
        for folder in (self.path, *_own_folders(self.path)):
            for path in [path for path in folder.glob(".*") if _LEFTOVER.fullmatch(path.name)]:
                is_folder = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path, ignore_errors=True) if is_folder else path.unlink(missing_ok=True)


def _command_of(name: str) -> str:
    """The command that makes a file of figures."""
    return "harness" if name.startswith("harness/") else "evaluate"


def _own_folders(run: Path) -> Iterator[Path]:
    """The folders of stages, and what lies in them. What else a person keeps in a run is not ours to clear."""
    for name in _OWN_FOLDERS:
        if not (run / name).is_symlink():
            yield from (Path(folder) for folder, _, _ in os.walk(run / name))


def _take_lock(file: BinaryIO, *, shared: bool) -> bool:
    """Whether the lock is ours now. `holder`, which looks for an instant, does not count as a holder."""
    for attempt in range(5):
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02 * (attempt < 4))
    return False


def _name_holder(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip() or "another process"
