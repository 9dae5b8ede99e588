"""The run opens no answer file before evaluation: Python itself tells of every file that is opened."""

import json
import os
from pathlib import Path

import pytest

from end_to_end.fork_run import ForkedRun

# Every Python process of a run begins with this. It notes who opens the answers, and whether training was over.
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
def opened_by(
    command: list[str], question_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    rows = [json.loads(line) for file in question_files for line in file.read_text().splitlines()]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row | {"answer": "B"}) + "\n" for row in rows))

    def run(*extra: str) -> list[dict]:
        """Who opened the answers in a run with these options, in order."""
        folder, log = tmp_path / "run", tmp_path / "opened.jsonl"
        path = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
        for name, value in {"PYTHONPATH": path, "OPENED": log, "MODEL": folder / "model"}.items():
            monkeypatch.setenv(name, str(value))
        asked = [*command, "--answers", str(answers), *extra, "--output", str(folder)]
        process = ForkedRun(asked, tmp_path / "log", first=HOOK)
        assert process.wait() == 0, process.log.read_text()
        noted = [json.loads(line) for line in log.read_text().splitlines()]
        return [row | {"is_run": row["pid"] == process.process.pid} for row in noted]

    return run


def test_no_process_of_a_run_opens_the_answers_before_evaluation(opened_by, tmp_path: Path) -> None:
    opened = opened_by("--track", "tensorboard")  # which looks at the run after every stage and step
    assert opened
    assert all(row["is_trained"] for row in opened if row["is_run"])
    # Before, a process that trains nothing has counted them.
    counted = [row for row in opened if not row["is_run"]]
    assert counted
    assert all("neuron_opsd.evaluation.check_answers" in row["command"] for row in counted)
    gap = json.loads((tmp_path / "run" / "evaluation" / "teacher_gap.json").read_text())
    assert gap["num_with_gold"] > 0
