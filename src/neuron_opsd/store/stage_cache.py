"""Finished stages that several runs share, by content.

    CACHE/STAGE/FINGERPRINT/...   one finished stage: its manifest and its files, as in a run folder
    CACHE/runs/...                a line for each run that has used the cache

A stage's fingerprint covers all that it depends on, so a run that needs what another has made takes it from here. A run
folder never depends on the cache: it holds hard links to the Parquet files, which are read-only, and copies of the
files that people edit. The trained model is not shared.

Whoever may write to an entry decides what runs read. So a run takes only what belongs to its user, to root or to the
owner of the cache folder, and what nobody else may write to.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_opsd.config.graph import STAGES_BEFORE
from neuron_opsd.errors import RunFolderError
from neuron_opsd.store.files import cache_folder, is_trustworthy, read_json, write_text
from neuron_opsd.store.stage_folder import StageFolder, fingerprint_of

logger = logging.getLogger(__name__)

VARIABLE = "NEURON_OPSD_STAGES"
OFF = "off"
NOT_SHARED = ("training",)  # its records are a model and checkpoints
SHARED = tuple(stage for stage in STAGES_BEFORE if stage not in NOT_SHARED)
LEFTOVER_SECONDS = 3600  # a temporary folder that nobody has written to for so long is a killed process's
_FINGERPRINT = re.compile("[0-9a-f]{16}")
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.\d+\.tmp")


@dataclass(frozen=True, slots=True)
class CachedStage:
    """One finished stage in the cache."""

    path: Path
    stage: str
    fingerprint: str
    num_bytes: int


class StageCache:
    """The folder through which runs share finished stages. With no folder, nothing is shared."""

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @classmethod
    def at(cls, place: str | None, *, default: Path) -> "StageCache":
        """The cache in a folder. `off` for none. The default folder where nothing is said."""
        return cls(None if place == OFF else Path(place) if place else default)

    def take(self, stage: StageFolder, inputs: dict[str, Any]) -> bool:
        """Put the finished stage made from these inputs into a run, if the cache holds it intact.

        Returns:
            Whether it did. The run's own folder of that stage is replaced then, and only then.
        """
        entry = self._entry(stage.name, fingerprint_of(inputs))
        if entry is None or not os.path.lexists(entry):
            return False
        temporary = stage.path.with_name(f".{stage.path.name}.partial")
        try:
            self._check_owners(entry)
            _copy_entry(entry, temporary)
            # What was taken is judged, so nothing can change between the look and the use.
            if not StageFolder(temporary, stage.name).is_finished(inputs):
                raise _BrokenEntryError(entry)
            shutil.rmtree(stage.path, ignore_errors=True)
            os.replace(temporary, stage.path)
        except _BrokenEntryError:
            logger.warning("%s: %s in the cache is corrupted and will be recomputed", stage.name, entry)
            shutil.rmtree(entry, ignore_errors=True)
            return False
        except OSError as error:
            logger.warning("%s: not taken from the cache (%s)", stage.name, error)
            return False
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    def publish(self, stage: StageFolder, run: Path) -> None:
        """Make a run's finished stage available to others. A cache that is not writable costs time alone."""
        manifest = stage.manifest()
        entry = (
            self._entry(stage.name, manifest["fingerprint"]) if manifest and manifest["complete"] else None
        )
        if entry is None or self.root is None:
            return
        temporary = _temporary(entry)
        try:
            self._remember(run)
            self._sweep(stage.name)
            if not _is_whole(entry, stage.name):
                shutil.rmtree(entry, ignore_errors=True)
                temporary.parent.mkdir(parents=True, exist_ok=True)
                link_stage(stage, temporary)
                # Another run may have been first, with the same content.
                with contextlib.suppress(FileExistsError):
                    temporary.rename(entry)
        except OSError as error:
            logger.warning("%s: not shared through the cache %s (%s)", stage.name, self.root, error)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def entries(self) -> list[CachedStage]:
        """Every finished stage in the cache, in the order of their paths, and nothing else."""
        found = [
            self._describe(path, stage)
            for stage in SHARED
            for path in (sorted((self.root / stage).glob("*")) if self.root else [])
            if _is_whole(path, stage)
        ]
        return sorted(found, key=lambda entry: entry.path)

    def require_no_runs(self) -> None:
        """Refuse to remove anything below a folder that holds runs.

        Raises:
            RunFolderError: names the runs.
        """
        files = [*self.root.glob("config.yaml"), *self.root.glob("*/config.yaml")] if self.root else []
        if files:
            names = ", ".join(str(file.parent) for file in sorted(files)[:3])
            raise RunFolderError(
                f"{self.root} holds runs ({names}), so nothing in it is removed. Give the cache a folder of its own: "
                f"set {VARIABLE}."
            )

    def unused(self) -> list[CachedStage]:
        """The entries that no run which still exists refers to."""
        used = {pair for run in self.runs() for pair in fingerprints_in(run)}
        return [entry for entry in self.entries() if (entry.stage, entry.fingerprint) not in used]

    def runs(self) -> list[Path]:
        """The runs that have used the cache and still exist."""
        files = sorted((self.root / "runs").glob("*.txt")) if self.root else []
        paths = [
            Path(file.read_text(encoding="utf-8", errors="replace").strip())
            for file in files
            if file.is_file()
        ]
        return [path for path in paths if (path / "config.yaml").is_file()]

    def free(self, entries: list[CachedStage]) -> int:
        """Remove entries. The runs that hold links to the same files keep them.

        Returns:
            The bytes that the entries held. A file that a run still links to frees nothing.
        """
        self.require_no_runs()
        for entry in entries:
            doomed = _temporary(entry.path)
            entry.path.rename(doomed)  # whole or gone: nobody takes half an entry
            shutil.rmtree(doomed)
        for stage in SHARED:
            self._sweep(stage)
        return sum(entry.num_bytes for entry in entries)

    def _entry(self, stage: str, fingerprint: str) -> Path | None:
        return None if self.root is None or stage not in SHARED else self.root / stage / fingerprint

    def _describe(self, path: Path, stage: str) -> CachedStage:
        size = sum(file.lstat().st_size for file in path.iterdir())
        return CachedStage(path, stage, path.name, size)

    def _check_owners(self, entry: Path) -> None:
        """Refuse an entry that somebody else has made or may change.

        Raises:
            PermissionError: names the path.
        """
        assert self.root is not None
        owner = self.root.stat().st_uid
        for path in (entry, *entry.glob("*")):
            if not is_trustworthy(path, owner):
                raise PermissionError(
                    f"{path} is not a plain file or folder of yours, of root or of the owner of {self.root}, or others "
                    "may write to it. Remove it, or use another cache"
                )

    def _sweep(self, stage: str) -> None:
        """Remove what killed processes left of entries that they were making or removing."""
        assert self.root is not None
        for path in (self.root / stage).glob(".*.tmp"):
            is_old = time.time() - path.lstat().st_mtime > LEFTOVER_SECONDS
            if _LEFTOVER.fullmatch(path.name) and is_old:
                shutil.rmtree(path, ignore_errors=True)

    def _remember(self, run: Path) -> None:
        assert self.root is not None
        place = str(run.resolve())
        file = self.root / "runs" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.txt"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, place + "\n")


def default_cache() -> StageCache:
    """$NEURON_OPSD_STAGES (`off` for none), else `stages` in the package's own cache folder."""
    return StageCache.at(os.environ.get(VARIABLE), default=cache_folder() / "stages")


def fingerprints_in(run: Path) -> Iterator[tuple[str, str]]:
    """(stage, fingerprint) of what a run folder holds."""
    for stage in SHARED:
        manifest = read_json(run / stage / "manifest.json") or {}
        if isinstance(fingerprint := manifest.get("fingerprint"), str):  # else a damaged one
            yield stage, fingerprint


def link_stage(stage: StageFolder, target: Path) -> None:
    """The files that a stage answers for, in a new folder of the cache that its owner alone may change."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o755)
    target.chmod(0o755)  # whatever the umask
    for name in ("manifest.json", *stage.file_names()):
        link_or_copy(stage.path / name, target / name)
        (target / name).chmod(0o444)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link to a file of records. A synced copy of a file that people edit, or where there can be no link."""
    if source.suffix == ".parquet":
        with contextlib.suppress(OSError):
            os.link(source, target, follow_symlinks=False)
            return
    shutil.copyfile(source, target, follow_symlinks=False)
    with target.open("rb") as file:
        os.fsync(file.fileno())


class _BrokenEntryError(Exception):
    """An entry of our own that is not whole."""


def _copy_entry(entry: Path, target: Path) -> None:
    """What an entry's manifest lists, and nothing outside the entry."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    stage = StageFolder(entry, entry.name)
    try:
        for name in ("manifest.json", *stage.file_names()):
            if Path(name).name != name:
                raise _BrokenEntryError(entry)
            link_or_copy(entry / name, target / name)
    except (FileNotFoundError, RunFolderError, KeyError, TypeError):
        raise _BrokenEntryError(entry) from None


def _is_whole(path: Path, stage: str) -> bool:
    """Whether this is an entry of ours: a real folder, named by the fingerprint in its manifest, with all its files."""
    if not _FINGERPRINT.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    if not all(stat.S_ISREG(file.lstat().st_mode) for file in path.iterdir()):
        return False
    entry = StageFolder(path, stage)
    manifest = entry.manifest() or {}
    is_named = (manifest.get("stage"), manifest.get("fingerprint")) == (stage, path.name)
    return is_named and all((path / name).is_file() for name in entry.file_names())


def _temporary(entry: Path) -> Path:
    return entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
