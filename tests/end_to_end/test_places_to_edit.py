"""The places that docs/architecture.md names for a new score and a new retrieval are edited, and no others."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import neuron_opsd
from end_to_end.conftest import write_questions
from end_to_end.tiny_run import SMALL

SOURCE = Path(neuron_opsd.__file__).parent

SCORE = {
    "config/stages.py": (
        '        "log_prob",\n        "random",\n',
        '        "log_prob",\n        "random",\n        "toy",\n',
    ),
    "selection/score.py": (
        '    if settings.score == "random":\n',
        '    if settings.score == "toy":\n'
        "        return [-float(item.num_completion_tokens) for item in sets]\n"
        '    if settings.score == "random":\n',
    ),
}
RETRIEVAL = {
    "config/stages.py": ("Retrieval = Literal[\n", 'Retrieval = Literal[\n    "toy",\n'),
    "contexts/neighbours.py": (
        '    if settings.retrieval == "tfidf":\n',
        '    if settings.retrieval == "toy":\n'
        "        after = sorted(shown)[:count]\n"
        "        return {q.question_id: [(other, 0.5) for other in after if other != q.question_id] for q in queries}\n"
        '    if settings.retrieval == "tfidf":\n',
    ),
}
RECIPE = """description: A toy score and a toy retrieval.
selection: {score: toy}
contexts: {retrieval: toy}
"""


@pytest.mark.slow
def test_a_new_score_and_a_new_retrieval_take_three_edits_each(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "src" / "neuron_opsd"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for edits in (SCORE, RETRIEVAL):
        for name, (before, after) in edits.items():
            text = (copy / name).read_text(encoding="utf-8")
            assert text.count(before) == 1, f"{name} has no such place any more: {before}"
            (copy / name).write_text(text.replace(before, after), encoding="utf-8")
    (copy / "recipes" / "toy.yaml").write_text(RECIPE, encoding="utf-8")
    questions, run = write_questions(tmp_path / "sums.jsonl", "sums", 20), tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "neuron_opsd.cli",
        "run",
        "toy",
        "--output",
        str(run),
        "--until",
        "contexts",
    ]
    done = subprocess.run(
        [*command, "--model", str(tiny_model_folder), "--questions", str(questions), *SMALL],
        env={**os.environ, "PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    selection = [json.loads(line) for line in (run / "selection" / "records.jsonl").open()]
    assert all(row["score"] == -row["num_completion_tokens"] for row in selection)
    shown = [json.loads(line)["demonstrations"] for line in (run / "contexts" / "records.jsonl").open()]
    assert {item["distance"] for items in shown for item in items} == {0.5}
