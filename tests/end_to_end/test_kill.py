"""kill -9 in the middle of a stage; the same command finishes with the bytes of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from end_to_end.test_pipeline import NEVER_EQUAL, artefacts, run

MOMENTS = ["rollouts/part-00000.parquet", "neurons/manifest.json", "training/checkpoint-2/complete"]


@pytest.mark.slow
def test_kill_and_resume(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = [*command, "training.num_steps=6", "training.save_steps=1"]
    assert run([*longer, "--output", str(tmp_path / "whole")], monkeypatch) == 0
    killed = tmp_path / "killed"
    for moment in MOMENTS:
        process = subprocess.Popen(
            [sys.executable, "-m", "neuron_opsd.cli", *longer, "--output", str(killed)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while not (killed / moment).exists():
            assert process.poll() is None, f"the run ended before {moment}"
            assert time.monotonic() < deadline, f"no {moment} in two minutes"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "report.html").exists()
    assert run([*longer, "--output", str(killed)], monkeypatch) == 0
    whole, resumed = (artefacts(tmp_path / name, without=NEVER_EQUAL) for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if whole[name] != resumed[name]] == []
