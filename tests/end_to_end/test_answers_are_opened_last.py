"""The run opens no answer file before evaluation: Python itself tells of every file that is opened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Every Python process of a run reads this as it starts. It notes who opens the answers, and whether training was over.
HOOK = """
import json, os, sys

log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(event, arguments):
    if event == "open" and str(arguments[0]).endswith("answers.jsonl"):
        command = open("/proc/self/cmdline").read().split(chr(0))
        row = {"pid": os.getpid(), "command": command, "is_trained": os.path.isdir(os.environ["MODEL"])}
        os.write(log, json.dumps(row).encode() + b"\\n")

sys.addaudithook(note)
"""


@pytest.fixture
def opened_by(command: list[str], question_files: list[Path], tmp_path: Path):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    rows = [json.loads(line) for file in question_files for line in file.read_text().splitlines()]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row | {"answer": "B"}) + "\n" for row in rows))

    def run(*extra: str) -> list[dict]:
        """Who opened the answers in a run with these options, in order."""
        folder, log = tmp_path / "run", tmp_path / "opened.jsonl"
        path = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
        asked = [sys.executable, "-m", "neuron_opsd.cli", *command, "--answers", str(answers), *extra]
        process = subprocess.Popen(
            [*asked, "--output", str(folder)],
            env=os.environ | {"PYTHONPATH": path, "OPENED": str(log), "MODEL": str(folder / "model")},
        )
        assert process.wait(300) == 0
        noted = [json.loads(line) for line in log.read_text().splitlines()]
        return [row | {"is_run": row["pid"] == process.pid} for row in noted]

    return run


def test_no_process_of_a_run_opens_the_answers_before_evaluation(opened_by, tmp_path: Path) -> None:
    opened = opened_by()
    assert opened
    assert all(row["is_trained"] for row in opened if row["is_run"])
    # Before, a process that trains nothing has counted them.
    counted = [row for row in opened if not row["is_run"]]
    assert counted
    assert all("neuron_opsd.evaluation.check_answers" in row["command"] for row in counted)
    gap = json.loads((tmp_path / "run" / "evaluation" / "teacher_gap.json").read_text())
    assert gap["num_with_gold"] > 0
