"""Memory of the record store: a stage four times as large takes no more, written, finished and read."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def measure(folder: Path, num_questions: int) -> dict:
    """The benchmark in a process of its own, whose peak memory it is."""
    command = [
        sys.executable,
        "benchmarks/store.py",
        "--folder",
        str(folder),
        "--num-questions",
        str(num_questions),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, "--num-rollouts", "2", "--num-tokens", "128"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_memory_does_not_grow_with_the_stage(tmp_path: Path) -> None:
    small, large = (measure(tmp_path / str(count), count) for count in (500, 2000))
    assert (small["num_records"], large["num_records"]) == (1000, 4000)
    assert 3.9 < large["parquet_mb"] / small["parquet_mb"] < 4.1
    # All records of the larger one at once would take over 60 MB more than those of the smaller.
    assert large["peak_mb"] < 1.15 * small["peak_mb"]
