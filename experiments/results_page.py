"""Write the tables and pictures of docs/results.md anew from the rows in experiments/rows/, in a minute.

    python experiments/results_page.py [--check]

In the page, `<!-- table: SCRIPT ARGUMENTS -->` stands before what `experiments/SCRIPT.py ARGUMENTS` prints, with paths
from experiments/ and headings one level lower, and `<!-- end -->` behind it. --check writes nothing and names what
differs.
"""

# ruff: noqa: T201
import argparse
import contextlib
import importlib
import io
import re
import sys
import tempfile
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "results.md"
BLOCK = re.compile(r"(<!-- table: (\S+) (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def printed(script: str, arguments: list[str]) -> str:
    """What a script prints, as Markdown for the page."""
    with (
        mock.patch.object(sys, "argv", [script, *arguments]),
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        importlib.import_module(script).main()
    return re.sub("^#", "##", out.getvalue().strip(), flags=re.MULTILINE)


def expanded(words: str) -> list[str]:
    """Arguments, rows by pattern in order of name."""
    arguments: list[str] = []
    for word in words.split():
        found = sorted(map(str, HERE.glob(word))) if word.startswith("rows/") else [word]
        if not found:
            sys.exit(f"{PAGE.name}: no rows match {word}.")
        arguments += found
    return arguments


def written(text: str, pictures: Path) -> str:
    """The page with every table printed anew; pictures go to a folder."""

    def table(match: re.Match[str]) -> str:
        arguments = expanded(match[3])
        for place, word in enumerate(arguments):
            if word == "--picture":
                arguments[place + 1] = str(pictures / arguments[place + 1])
        return f"{match[1]}{printed(match[2], arguments)}\n{match[4]}"

    return BLOCK.sub(table, text)


def main() -> int:
    """Write or check; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    pictures = PAGE.parent / "pictures"
    if not check:
        PAGE.write_text(written(before, pictures), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        after = written(before, Path(folder))
        differ = [
            f"- {b}\n+ {a}" for b, a in zip(before.splitlines(), after.splitlines(), strict=False) if a != b
        ][:4]
        differ += [
            path.name
            for path in sorted(Path(folder).iterdir())
            if path.read_bytes() != _bytes(pictures / path.name)
        ]
    if before != after or differ:
        print("docs/results.md is not what the rows say; run experiments/results_page.py:", *differ, sep="\n")
        return 1
    return 0


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


if __name__ == "__main__":
    sys.exit(main())
