"""`neuron-opsd questions --check FILE` tells what a run would read, and ends as it would."""

import json
import sys
from pathlib import Path

import openpyxl
import pytest

from neuron_opsd import cli


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str, status: int = 0, out: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["neuron-opsd", "questions", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert (stop.value.code or 0) == status
        assert "Traceback" not in said.err
        return said.out if status == 0 or out else said.err

    return call


def exam(path: Path) -> Path:
    book = openpyxl.Workbook()
    book.active.append(["Biology, 9th grade"])
    book.active.append(["No.", "Question", "Option A", "Option B", "Option C", "Correct"])
    for k in range(40):
        book.active.append([k, f"What is {k} + 1?", k, k + 1, "All of the above" if k else None, "AB"[k % 2]])
    book.save(path)
    return path


def test_an_exam_and_its_answers(check, tmp_path: Path) -> None:
    path = str(exam(tmp_path / "exam.xlsx"))
    said = check("--check", path, "--answers", path)
    assert "40 questions of 40 rows" in said
    assert "question from Question, choices from Option A, Option B, Option C" in said
    assert "answers:     Correct (dropped unread" in said
    assert "39 keep their order" in said
    assert "40 questions answered" in said
    assert "A 50%, B 50%" in said
    assert said.count("=== question") == 3
    assert "A. " in said
    assert "40 questions begin alike" in said


def test_with_a_model_the_prompt_is_rendered(check, tmp_path: Path, tiny_model_folder: Path) -> None:
    path = str(exam(tmp_path / "exam.xlsx"))
    limits = [f"{part}.max_new_tokens=8" for part in ("rollouts", "training", "evaluation")]
    said = check("--check", path, "--model", str(tiny_model_folder), *limits)
    assert "tokens ===" in said


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("Frage;X\nWas?;1\n", (), "questions.fields={question: Frage}"),
        ("question;resp A;resp B\nWhat?;1;2\n", (), "questions.fields={choices: ['resp A', 'resp B']}"),
        ("question;A;B\nWhat?;1;2\n", ("questions.fields={foo: bar}",), "'foo' is not a field of a question"),
        (
            "question;A;B\nWhat?;1;2\n",
            ("questions.fields={question: answer}",),
            "None of the 1 in-domain questions",
        ),
        ("question;answer\nWhat?;1\n", ("questions.fields={question: answer}",), "only evaluation may read"),
    ],
)
def test_where_a_run_would_stop_it_stops(check, tmp_path: Path, text: str, arguments, expected: str) -> None:
    (tmp_path / "pool.csv").write_text(text)
    assert expected in check("--check", str(tmp_path / "pool.csv"), *arguments, status=2)


def test_a_first_trial_shows_how_questions_are_read_though_they_are_too_few_to_split(
    check, tmp_path: Path
) -> None:
    path = str(tmp_path / "pool.csv")
    Path(path).write_text("question;A;B;answer\nWhat?;one;two;B\n")
    said = check("--check", path, "--answers", path, status=2, out=True)
    assert "1 questions answered" in said
    assert "A. one\nB. two" in said


def test_a_column_that_is_named_and_not_there_is_told(check, tmp_path: Path) -> None:
    path = tmp_path / "pool.csv"
    path.write_text("question;A;B\n" + "".join(f"Is {k} odd?;yes;no\n" for k in range(40)))
    said = check("--check", str(path), "questions.fields={question: Frage}")
    assert "warning:     no column 'Frage', which questions.fields names for the question" in said
    assert "question from question" in said


def test_answers_that_count_from_nobody_knows(check, tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    rows = [{"question": f"Is {k} odd?", "opa": "yes", "opb": "no", "cop": k % 2} for k in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = check("--check", str(path), "--answers", str(path), status=2)
    assert "from 0 it is A (yes)" in said
    assert "balance:" in check("--check", str(path), "--answers", str(path), "questions.answer_base=0")


def test_of_two_files_none_is_dropped_without_a_word(check) -> None:
    assert "--check is given 2 times (a.csv, b.csv)" in check(
        "--check", "a.csv", "--check", "b.csv", status=2
    )


def test_neither_a_run_nor_a_file(check) -> None:
    assert "neuron-opsd questions RUN" in check(status=2)


SMALL_LETTERS = "".join(f'"What is {k} + 1?\na) {k}\nb) {k + 1}",{"ab"[k % 2]}\n' for k in range(12))


def test_choices_in_small_letters_within_the_question(check, tmp_path: Path) -> None:
    path = tmp_path / "exam.csv"
    path.write_text("Question,Correct\n" + SMALL_LETTERS)
    arguments = ["--check", str(path), "--answers", str(path)]
    setting = "questions.fields={question: Question, choices: Question}"
    assert setting in check(*arguments, status=2)
    said = check(*arguments, setting)
    assert "12 with 2 choices" in said
    assert "A 50%, B 50%" in said
    free = check(*arguments, "questions.fields={choices: null}")
    assert "warning:     " in free
    assert "12 of the 12 answers to free-form questions are one letter alone" in free


def test_letters_as_answers_to_questions_without_choices(check, tmp_path: Path) -> None:
    path = tmp_path / "exam.csv"
    path.write_text("Question,Correct\n" + "".join(f"What is {k} + 1?,B\n" for k in range(12)))
    said = check("--check", str(path), "--answers", str(path), status=2)
    assert "12 of the 12 answers to free-form questions are one letter alone" in said
