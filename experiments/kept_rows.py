"""The rows behind docs/results.md: one archive for each study, experiments/rows/STUDY.zip.

    python experiments/kept_rows.py unpack FOLDER     writes every archive as FOLDER/STUDY/...
    python experiments/kept_rows.py pack FOLDER       adds FOLDER/STUDY/... to the archives, and removes nothing

Studies append rows to plain files, so a kill costs one line at most. To add rows: unpack, run the study there, pack.
`training_study.py --keep FOLDER/STUDY` writes the rows of training runs. Files named replies-* hold text and are not
packed.
"""

import argparse
import sys
import zipfile
from pathlib import Path

ROWS = Path(__file__).resolve().parent / "rows"


def unpack(folder: Path) -> None:
    """Write the rows of every study below a folder."""
    for archive in sorted(ROWS.glob("*.zip")):
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder / archive.stem)


def pack(folder: Path) -> None:
    """Add each study's rows to its archive, in place of older ones of the same name."""
    for study in sorted(path for path in folder.iterdir() if path.is_dir()):
        archive = ROWS / f"{study.name}.zip"
        content: dict[str, bytes] = {}
        if archive.is_file():
            with zipfile.ZipFile(archive) as packed:
                content = {name: packed.read(name) for name in packed.namelist()}
        for path in [*study.glob("*.json*"), *study.glob("*/*.json*")]:
            if not path.name.startswith("replies-"):
                content[path.relative_to(study).as_posix()] = path.read_bytes()
        _write(archive, content)


def _write(archive: Path, content: dict[str, bytes]) -> None:
    """Equal rows give equal bytes: names in order, and no times. A kill leaves the old archive."""
    unfinished = archive.with_suffix(".tmp")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name in sorted(content):
            packed.writestr(zipfile.ZipInfo(name), content[name], zipfile.ZIP_DEFLATED, 9)
    unfinished.replace(archive)


def main() -> int:
    """Unpack or pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("unpack", "pack"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "pack" and not arguments.folder.is_dir():
        print(f"{arguments.folder} is not a folder. `unpack` makes it.", file=sys.stderr)  # noqa: T201
        return 2
    (unpack if arguments.command == "unpack" else pack)(arguments.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
