"""`scripts/picture.py` takes a picture of any run's report, and says what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "picture.py"


def test_a_run_without_a_report_is_refused_with_the_next_step(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run"), str(tmp_path / "report.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "report.html does not exist. Make it first: neuron-opsd report" in done.stderr
    assert not (tmp_path / "report.png").exists()


@pytest.mark.slow
def test_a_picture_of_any_runs_report_is_a_small_file(plain_page: Path, tmp_path: Path) -> None:
    if not shutil.which("chromium"):
        pytest.fail("needs chromium") if os.environ.get("CI") else pytest.skip("needs chromium")
    picture = tmp_path / "report.png"
    subprocess.run([sys.executable, str(SCRIPT), str(plain_page.parent), str(picture)], check=True)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 400_000
