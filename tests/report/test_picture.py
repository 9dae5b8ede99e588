"""`scripts/picture.py` says what is missing."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "picture.py"


def test_a_run_without_a_report_is_refused_with_the_next_step(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run"), str(tmp_path / "report.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "report.html does not exist. Make it first: neuron-opsd report" in done.stderr
    assert not (tmp_path / "report.png").exists()
