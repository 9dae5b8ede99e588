"""Break the code on purpose, one fault at a time, and see whether the tests notice.

    python scripts/mutants.py                       all of tests/mutants.yaml
    python scripts/mutants.py --only preflight      those whose name or file has the word
    python scripts/mutants.py --sample 8            eight that are known to be killed, another eight each day
    python scripts/mutants.py --sample 8 --seed 17  the same eight whenever it is asked

A mutant is a fault that a hurried hand could make: a file, the right text, the wrong text, the few tests that must
fail. Each is tried on a copy of the source, in one process with one thread. First the tests must pass on the source as
it is; a sample leaves that to `make test`. The exit status is 1 where fewer than 95 % are killed.
"""

import argparse
import datetime
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/neuron_opsd")
TABLE = ROOT / "tests" / "mutants.yaml"
MIN_RATE = 0.95
TIME_LIMIT_S = 600  # of one mutant's tests; what never ends is noticed, too
PASSED, NOT_RUN = 0, (3, 4, 5)  # exit statuses of pytest; the last: its own error, no such test, no test
OUTPUT = "output.txt"
# Each mutant's tests run in a fork of this process, so that what takes seconds to import is imported once.
FORK = multiprocessing.get_context("fork")
SLOW_TO_IMPORT = ("torch", "transformers.trainer", "peft", "datasets", "scipy.stats", "hypothesis")


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    name: str
    file: str  # below src/neuron_opsd
    right: str
    wrong: str
    tests: str  # files or single tests, as pytest takes them
    survives: str = ""  # why no test fails, where that is known

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
    """Whether a test fails on the fault, or never ends."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PACKAGE
        shutil.copytree(ROOT / PACKAGE, copy)
        (copy / mutant.file).write_text(mutant.mutated(), encoding="utf-8")
        return not passes(mutant.tests.split(), copy.parent, time_limit_s=TIME_LIMIT_S)


def passes(tests: Sequence[str], source: Path, *, time_limit_s: float | None = None) -> bool:
    """Whether these tests pass on the package in a folder, in time.

    Raises:
        SystemExit: pytest could not run them.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = FORK.Process(target=_run_tests, args=(tests, source, Path(folder)))
        process.start()
        try:
            process.join(time_limit_s)
        finally:
            if process.is_alive():
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that tests have started
                process.join()
        if process.exitcode in NOT_RUN:
            text = (Path(folder) / OUTPUT).read_text(encoding="utf-8", errors="replace")
            sys.exit(f"pytest {' '.join(tests)} ended with status {process.exitcode}.\n{text}")
    return process.exitcode == PASSED


def _run_tests(tests: Sequence[str], source: Path, folder: Path) -> None:
    """In a process of its own, which ends with pytest's exit status; what it prints and writes goes into a folder."""
    os.setsid()
    output = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(ROOT)
    sys.path.insert(0, str(source))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'files'}", *tests]))


def chosen(mutants: Sequence[Mutant], sample: int, seed: int) -> list[Mutant]:
    """`sample` of those known to be killed. Lots of successive seeds go round, so that each has its turn."""
    killed = [mutant for mutant in mutants if not mutant.survives]
    random.Random(0).shuffle(killed)  # the table is by module
    return [killed[(seed * sample + place) % len(killed)] for place in range(min(sample, len(killed)))]


def main() -> int:
    """Try the mutants, a line each, and the rate at the end."""
    today = datetime.date.today().toordinal()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a word in the mutant's name or file")
    parser.add_argument("--sample", type=int, help="how many to try; default: all")
    parser.add_argument("--seed", type=int, default=today, help="which sample; default: another each day")
    arguments = parser.parse_args()
    mutants = [m for m in read_mutants() if arguments.only in m.name or arguments.only in m.file]
    if not mutants:
        parser.error(f"no mutant has {arguments.only!r} in its name or file")
    os.nice(10)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name in SLOW_TO_IMPORT:
        importlib.import_module(name)
    if arguments.sample:
        mutants = chosen(mutants, arguments.sample, arguments.seed)
    elif not passes(sorted({test for mutant in mutants for test in mutant.tests.split()}), ROOT / "src"):
        sys.exit("The tests fail on the source as it is. Mend that first: make test")
    num_killed = 0
    for mutant in mutants:
        started = time.monotonic()
        killed = is_killed(mutant)
        num_killed += killed
        word = "killed" if killed else "survives, as known" if mutant.survives else "SURVIVES"
        print(f"{word}  {time.monotonic() - started:4.0f} s  {mutant.file}: {mutant.name}", flush=True)
    rate = num_killed / len(mutants)
    print(f"{num_killed} of {len(mutants)} mutants killed ({rate:.0%})")
    return 0 if rate >= MIN_RATE else 1


if __name__ == "__main__":
    sys.exit(main())
