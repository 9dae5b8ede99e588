"""Write the tables and pictures of docs/results.md anew from the rows in experiments/rows/, in a minute.

    python experiments/results_page.py [--check]

In the page, `<!-- table: SCRIPT ARGUMENTS -->` stands before what `experiments/SCRIPT.py ARGUMENTS` prints, and
`<!-- end -->` behind it. `rows/STUDY/*` are the files of rows/STUDY.zip. Headings are one level lower than printed.
--check writes nothing and names what differs. It forgives the last decimal of a figure: processors add in different
orders, and a half-way value can round to either side.
"""

# ruff: noqa: T201
import argparse
import contextlib
import importlib
import io
import itertools
import re
import sys
import tempfile
from pathlib import Path
from unittest import mock

from kept_rows import unpack

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"
BLOCK = re.compile(r"(<!-- table: (\S+) (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
DECIMAL = re.compile(r"[-+−]?\d*\.\d+")


def printed(script: str, arguments: list[str]) -> str:
    """What a script prints, as Markdown for the page."""
    with (
        mock.patch.object(sys, "argv", [script, *arguments]),
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        importlib.import_module(script).main()
    return re.sub("^#", "##", out.getvalue().strip(), flags=re.MULTILINE)


def expanded(words: str, unpacked: Path) -> list[str]:
    """Arguments, rows by pattern in order of name."""
    arguments: list[str] = []
    for word in words.split():
        found = sorted(map(str, unpacked.glob(word))) if word.startswith("rows/") else [word]
        if not found:
            sys.exit(f"{PAGE.name}: no rows match {word}.")
        arguments += found
    return arguments


def written(text: str, pictures: Path) -> str:
    """The page with every table printed anew; pictures go to a folder."""

    def table(match: re.Match[str]) -> str:
        arguments = expanded(match[3], unpacked)
        for place, word in enumerate(arguments):
            if word == "--picture":
                arguments[place + 1] = str(pictures / arguments[place + 1])
        return f"{match[1]}{printed(match[2], arguments)}\n{match[4]}"

    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder)
        unpack(unpacked / "rows")
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
        differ = differences(before, after)
        differ += [
            path.name
            for path in sorted(Path(folder).iterdir())
            if differences(_text(pictures / path.name), _text(path))
        ]
    if differ:
        print(
            "docs/results.md is not what the rows say; run experiments/results_page.py:",
            *differ[:4],
            sep="\n",
        )
        return 1
    return 0


def differences(before: str, after: str) -> list[str]:
    """Lines that differ by more than the last decimal of their figures."""
    pairs = itertools.zip_longest(before.splitlines(), after.splitlines(), fillvalue="")
    return [f"- {old}\n+ {new}" for old, new in pairs if not is_same_line(old, new)]


def is_same_line(old: str, new: str) -> bool:
    """Whether words and whole numbers are equal, and decimals within one unit of the last place."""
    if DECIMAL.sub("#", old) != DECIMAL.sub("#", new):
        return False
    figures = zip(DECIMAL.findall(old), DECIMAL.findall(new), strict=True)
    return all(_is_near(one, other) for one, other in figures)


def _is_near(one: str, other: str) -> bool:
    places = [len(figure.partition(".")[2]) for figure in (one, other)]
    values = [float(figure.replace("−", "-")) for figure in (one, other)]
    return places[0] == places[1] and abs(values[0] - values[1]) < 1.5 * 10 ** -places[0]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
