"""The process that counts answers: what libraries print is passed over, and a death is an error one can act on."""

import json
import logging
from pathlib import Path

import pytest

from neuron_opsd.config import QuestionSettings
from neuron_opsd.errors import DataError
from neuron_opsd.questions.answer_counts import check_answers, count_answers
from neuron_opsd.questions.read import read_questions
from neuron_opsd.records import Question

SETTINGS = QuestionSettings(path="unused")


def count(folder: Path, monkeypatch: pytest.MonkeyPatch, at_start: str):
    """With a line of Python that the process runs when it starts."""
    file = folder / "questions.jsonl"
    row = {"question_id": "a", "question": "1 + 1?", "choices": ["2", "3"], "answer": "A"}
    file.write_text(json.dumps(row) + "\n")
    (folder / "sitecustomize.py").write_text(at_start)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return count_answers([str(file)], read_questions(str(file)), SETTINGS)


def test_lines_that_a_library_prints_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count(tmp_path, monkeypatch, "print('a banner')").num_questions == 1


def test_a_process_that_dies_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"reads .*questions.jsonl ended with status 9: .*neuron-opsd env"):
        count(tmp_path, monkeypatch, "import os; os._exit(9)")


def test_the_same_files_are_counted_once_and_an_edited_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"
    note_a_start = f"open({str(starts)!r}, 'a').write('.')"
    count(tmp_path, monkeypatch, note_a_start)
    questions, paths = read_questions(str(tmp_path / "questions.jsonl")), [str(tmp_path / "questions.jsonl")]
    assert count_answers(paths, questions, SETTINGS).num_questions == 1
    assert starts.read_text() == "."
    (tmp_path / "questions.jsonl").write_text('{"question_id": "another", "answer": "A"}\n')
    assert count_answers(paths, questions, SETTINGS).num_questions == 0
    assert starts.read_text() == ".."


def free_form(folder: Path, answers: list[str]) -> str:
    rows = [{"question": f"Question {k}?", "answer": answer} for k, answer in enumerate(answers)]
    (folder / "free.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "free.jsonl")


def test_letters_as_answers_to_questions_without_choices_stop(tmp_path: Path) -> None:
    path = free_form(tmp_path, ["A", "b", "(C)", "D.", "Helium"])
    with pytest.raises(DataError) as caught:
        count_answers([path], read_questions(path), SETTINGS)
    message = str(caught.value)
    assert "4 of the 5 answers to free-form questions are one letter alone" in message
    assert "questions.fields={choices: NAME}" in message
    assert "questions.fields={choices: null}" in message


def test_beside_questions_with_choices_letters_alone_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The setting that calls them free-form would take the choices of the others."""
    path = free_form(tmp_path, ["A", "B", "C", "D", "A"])
    other = Question(question_id="o", domain="o", question="Is it?", choices=("yes", "no"))
    with caplog.at_level(logging.WARNING):
        check_answers([path], [*read_questions(path), other], SETTINGS, name="evaluation.answers")
    assert "5 of the 5 answers to free-form questions are one letter alone" in caplog.text


@pytest.mark.parametrize(
    "answers", [["A", "B", "C", "D"], ["A", "B", "C", "Argon", "Helium"], ["K", "N", "O", "P", "S"]]
)
def test_few_letters_and_others_are_texts(tmp_path: Path, answers: list[str]) -> None:
    path = free_form(tmp_path, answers)
    assert count_answers([path], read_questions(path), SETTINGS).num_free_form == len(answers)


@pytest.mark.parametrize(("answers", "fields"), [(list("12345"), {}), (list("ABCDE"), {"choices": None})])
def test_digits_and_letters_that_a_setting_calls_free_form_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answers: list[str], fields: dict
) -> None:
    path = free_form(tmp_path, answers)
    settings = QuestionSettings(path=path, fields=fields)
    with caplog.at_level(logging.WARNING):
        check_answers([path], read_questions(path, fields=fields), settings, name="evaluation.answers")
    assert "5 of the 5 answers to free-form questions are one" in caplog.text
