"""Break the code on purpose, one fault at a time, and see whether the tests notice.

    python scripts/mutants.py                  all of tests/mutants.yaml
    python scripts/mutants.py --sample 4       some, another lot each day
    python scripts/mutants.py --only preflight those whose name or file has the word

A mutant is a fault that a hurried hand could make: a file, the right text, the wrong text, the tests that must fail.
Each is tried on a copy of the source. The exit status is 1 where one survives.
"""

import argparse
import datetime
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/neuron_opsd")
TABLE = ROOT / "tests" / "mutants.yaml"
NO_TEST_FAILED = 0
TESTS_FAILED = 1


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    name: str
    file: str  # below src/neuron_opsd
    right: str
    wrong: str
    tests: str  # arguments of pytest

    def mutated(self) -> str:
        """The file's text with the fault in it.

        Raises:
            SystemExit: the right text does not stand there exactly once.
        """
        text = (ROOT / PACKAGE / self.file).read_text(encoding="utf-8")
        if text.count(self.right) != 1:
            sys.exit(
                f"{TABLE.name}: the text of {self.name!r} stands {text.count(self.right)} times in {self.file}, "
                "not once. Bring the entry up to date with the code."
            )
        return text.replace(self.right, self.wrong)


def read_mutants() -> list[Mutant]:
    """The table."""
    return [Mutant(**row) for row in yaml.safe_load(TABLE.read_text(encoding="utf-8"))]


def is_killed(mutant: Mutant) -> bool:
    """Whether a test fails on the fault.

    Raises:
        SystemExit: pytest could not run the tests at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PACKAGE
        shutil.copytree(ROOT / PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / mutant.file).write_text(mutant.mutated(), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *mutant.tests.split(),
        ]
        environment = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (NO_TEST_FAILED, TESTS_FAILED):
        sys.exit(f"{mutant.name}: pytest ended with status {done.returncode}.\n{done.stdout}{done.stderr}")
    return done.returncode == TESTS_FAILED


def chosen(mutants: list[Mutant], *, only: str, sample: int | None) -> list[Mutant]:
    """Those whose name or file has a word; of them, some that change with the date."""
    found = [mutant for mutant in mutants if only in mutant.name or only in mutant.file]
    if sample is None or sample >= len(found):
        return found
    return random.Random(datetime.date.today().toordinal()).sample(found, sample)


def main() -> int:
    """Try the mutants, a line each, and the rate at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="how many to try, another lot each day; default: all")
    parser.add_argument("--only", default="", help="a word in the mutant's name or file")
    arguments = parser.parse_args()
    mutants = chosen(read_mutants(), only=arguments.only, sample=arguments.sample)
    if not mutants:
        parser.error(f"no mutant has {arguments.only!r} in its name or file")
    num_killed = 0
    for mutant in mutants:
        started = time.monotonic()
        killed = is_killed(mutant)
        num_killed += killed
        seconds = time.monotonic() - started
        print(
            f"{'killed' if killed else 'SURVIVED'}  {seconds:4.0f} s  {mutant.file}: {mutant.name}",
            flush=True,
        )
    print(f"{num_killed} of {len(mutants)} mutants killed ({num_killed / len(mutants):.0%})")
    return 0 if num_killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
