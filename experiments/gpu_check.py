"""What a machine lacks to run this project: packages that are missing or too old, one a line.

    python experiments/gpu_check.py [--extra NAME]...

It needs the standard library alone.
"""

# ruff: noqa: T201
import argparse
import importlib.metadata
import tomllib
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
GIVEN = {"torch"}  # of these neither their version's neighbours nor their dependencies are our business


def missing(extras: Sequence[str]) -> list[str]:
    """Names of the packages that the project, `extras` and what these need in turn lack; too old counts as missing."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
    waiting = [*tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"], *extras]
    seen, found = set[str](), list[str]()
    while waiting:
        wanted = Requirement(waiting.pop(0))
        name = wanted.name.lower().replace("_", "-")
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            found.append(name)
        if version is not None and name not in seen | GIVEN:
            seen.add(name)
            waiting += importlib.metadata.requires(name) or []
    return list(dict.fromkeys(found))


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extra", action="append", default=[], help="a package beyond the project's own")
    print("\n".join(missing(parser.parse_args().extra)))


if __name__ == "__main__":
    main()
