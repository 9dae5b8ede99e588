"""Finished stages that several runs share, by content.

    CACHE/STAGE/FINGERPRINT/...   one finished stage: its manifest and its files, as in a run folder
    CACHE/runs/...                a line for each run that has used the cache

A stage's fingerprint covers all that it depends on, so a run that needs what another has made takes it from here.
Files are hard links where both lie on one file system, else copies: a run folder never depends on the cache, and nobody
writes into a file that is there (a remade one is a new file, renamed into place). The trained model is not shared.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_opsd.files import read_json, write_text
from neuron_opsd.model.gguf import cache_folder
from neuron_opsd.stage_folder import StageFolder, fingerprint_of

logger = logging.getLogger(__name__)

VARIABLE = "NEURON_OPSD_STAGES"
OFF = "off"
NOT_SHARED = ("training",)  # its records are a model and checkpoints


@dataclass(frozen=True, slots=True)
class CachedStage:
    """One finished stage in the cache."""

    path: Path
    stage: str
    fingerprint: str
    num_bytes: int


class StageCache:
    """The folder through which runs share finished stages; with no folder, nothing is shared."""

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @classmethod
    def at(cls, place: str | None, *, default: Path) -> "StageCache":
        """The cache in a folder; `off` for none; the default folder where nothing is said."""
        return cls(None if place == OFF else Path(place) if place else default)

    def take(self, stage: StageFolder, inputs: dict[str, Any]) -> bool:
        """Put the finished stage made from these inputs into a run, if the cache holds it intact.

        Returns:
            Whether it did; the run's own folder of that stage is replaced then, and only then.
        """
        entry = self._entry(stage.name, fingerprint_of(inputs))
        if entry is None or not (entry / "manifest.json").is_file():
            return False
        if not StageFolder(entry, stage.name).is_finished(inputs):
            logger.warning("%s: %s in the cache is damaged and is made again", stage.name, entry)
            shutil.rmtree(entry, ignore_errors=True)
            return False
        temporary = stage.path.with_name(f".{stage.path.name}.partial")
        try:
            link_folder(entry, temporary)
            shutil.rmtree(stage.path, ignore_errors=True)
            os.replace(temporary, stage.path)
        except OSError as error:
            logger.warning("%s: not taken from the cache (%s)", stage.name, error)
            shutil.rmtree(temporary, ignore_errors=True)
            return False
        return True

    def publish(self, stage: StageFolder, run: Path) -> None:
        """Make a run's finished stage available to others; a cache that is not writable costs time alone."""
        manifest = stage.manifest()
        entry = (
            self._entry(stage.name, manifest["fingerprint"]) if manifest and manifest["complete"] else None
        )
        if entry is None or self.root is None:
            return
        temporary = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
        try:
            self._remember(run)
            if not entry.exists():
                temporary.parent.mkdir(parents=True, exist_ok=True)
                link_folder(stage.path, temporary)
                # Another run may have been first, with the same content.
                with contextlib.suppress(FileExistsError):
                    temporary.rename(entry)
        except OSError as error:
            logger.warning("%s: not shared through the cache %s (%s)", stage.name, self.root, error)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def entries(self) -> list[CachedStage]:
        """Every finished stage in the cache, in the order of their paths."""
        manifests = sorted(self.root.glob("**/manifest.json")) if self.root else []
        return [self._describe(file.parent) for file in manifests if not file.parent.name.startswith(".")]

    def unused(self) -> list[CachedStage]:
        """The entries that no run which still exists refers to."""
        used = {pair for run in self.runs() for pair in fingerprints_in(run)}
        return [entry for entry in self.entries() if (entry.stage, entry.fingerprint) not in used]

    def runs(self) -> list[Path]:
        """The runs that have used the cache and still exist."""
        files = sorted((self.root / "runs").glob("*.txt")) if self.root else []
        paths = [Path(file.read_text(encoding="utf-8").strip()) for file in files]
        return [path for path in paths if (path / "config.yaml").is_file()]

    def free(self, entries: list[CachedStage]) -> int:
        """Remove entries; the runs that hold links to the same files keep them.

        Returns:
            The bytes that the entries held. A file that a run still links to frees nothing.
        """
        for entry in entries:
            doomed = entry.path.with_name(f".{entry.path.name}.{os.getpid()}.tmp")
            entry.path.rename(doomed)  # whole or gone: nobody takes half an entry
            shutil.rmtree(doomed)
        return sum(entry.num_bytes for entry in entries)

    def _entry(self, stage: str, fingerprint: str) -> Path | None:
        return None if self.root is None or stage in NOT_SHARED else self.root / stage / fingerprint

    def _describe(self, path: Path) -> CachedStage:
        assert self.root is not None
        size = sum(file.stat().st_size for file in path.iterdir())
        return CachedStage(path, str(path.parent.relative_to(self.root)), path.name, size)

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
    for file in run.glob("**/manifest.json"):
        manifest = read_json(file)
        if isinstance(manifest, dict) and {"stage", "fingerprint"} <= manifest.keys():  # else a damaged one
            yield manifest["stage"], manifest["fingerprint"]


def link_folder(source: Path, target: Path) -> None:
    """The files of a folder under another name, by hard link, or by copy where the file systems differ."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            link_or_copy(file, target / file.name)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a synced copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
