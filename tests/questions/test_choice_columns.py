"""Columns that hold choices under other names: read on demand, and never where a name tells the right one."""

import csv
import json
from pathlib import Path

import openpyxl
import pytest

from neuron_opsd.errors import DataError
from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.questions.read import read_questions
from neuron_opsd.tables.columns import is_answer_column


def write(path: Path, rows: list[dict]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def error_of(path: str, fields: dict | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_questions(path, fields=fields)
    return str(caught.value)


WRONG_APART = [
    {"Question": "Q?", "Correct answer": "r", "Wrong 1": "x", "Wrong 2": "y", "Wrong 3": "z"},
    {"Question": "Q?", "Key": "r", "Distractor 1": "x", "Distractor 2": "y", "Level": "easy"},
    {"question": "Q?", "correct_answer": "r", "distractor1": "x", "distractor2": "y", "distractor3": "z"},
    {"question": "Q?", "answer": "r", "wrong_answer": "x", "distractor": "y"},
    {"question": "Q?", "correct_answer": "r", "incorrect_answers": "x, y"},
    {"question": "Q?", "Antwort": "r", "Falsche Antwort 1": "x", "Falsche Antwort 2": "y"},
    {"question": "Q?", "Right": "r", "Incorrect Choice A": "x"},
]


@pytest.mark.parametrize("row", WRONG_APART)
def test_wrong_choices_apart_from_the_right_one_stop(tmp_path, row):
    path = write(tmp_path / "a.csv", [row])
    message = error_of(path)
    assert "wrong choices by" in message
    assert "the right one is in a column of its own" in message
    assert "columns choice_a, choice_b, ..., in an order that does not give the right one away" in message
    assert read_questions(path, fields={"choices": None})[0].choices == ()


@pytest.mark.parametrize(
    "names", [["Wrong 1", "Wrong 2", "Wrong 3"], ["Correct answer", "Wrong 1", "Wrong 2", "Wrong 3"]]
)
def test_no_setting_reads_choices_whose_names_tell_the_right_one(tmp_path, names):
    path = write(tmp_path / "a.csv", WRONG_APART[:1])
    fields = {"choices": names, "answer": "Correct answer"}
    assert "A run must not see which choice is right" in error_of(path, fields)
    with pytest.raises(DataError, match="A run must not see which choice is right"):
        load_answer_key([path], read_questions(path, fields={"choices": None}), fields=fields)


def test_one_column_of_an_answer_among_the_choices_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", [{"question": "Q?", "correct": "r", "one": "x", "two": "y"}])
    message = error_of(path, {"choices": ["correct", "one", "two"]})
    assert "of which 'correct' holds the answer by its name" in message


def test_free_form_sets_that_list_wrong_answers_are_read(tmp_path):
    row = {"question": "Q?", "best_answer": "r", "correct_answers": ["r", "s"], "incorrect_answers": ["x"]}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    assert read_questions(str(path))[0].choices == ()


@pytest.mark.parametrize("name", ["Wrong 1", "wrong_answers", "Falsche Antwort 2", "干扰项1"])
def test_wrong_choices_are_never_read(name):
    assert is_answer_column(name)


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (["选项甲", "选项乙", "选项丙"], "乙"),
        (["甲", "乙", "丙"], "乙"),
        (["Вариант А", "Вариант Б", "Вариант В"], "Б"),
        (["А", "Б", "В"], "б"),
        (["選択肢ア", "選択肢イ", "選択肢ウ"], "イ"),
        (["보기 가", "보기 나", "보기 다"], "나"),
        (["选项Ａ", "选项Ｂ", "选项Ｃ"], "B"),
        (["Antwort A", "Antwort B", "Antwort C"], "B"),
    ],
)
def test_columns_numbered_in_any_script_stop_with_the_setting_that_reads_them(tmp_path, names, answer):
    row = {"question": "Q?"} | dict(zip(names, ["x", "y", "z"], strict=True)) | {"gold": answer}
    path = write(tmp_path / "a.csv", [row])
    message = error_of(path)
    assert all(name in message for name in names)
    assert "look like choices, and are not read. To read them: questions.fields={choices: [" in message
    fields = {"choices": names}
    questions = read_questions(path, fields=fields)
    assert questions[0].choices == ("x", "y", "z")
    assert [*load_answer_key([path], questions, fields=fields).values()] == ["B"]


def test_names_that_end_alike_by_chance_are_no_choices(tmp_path):
    path = write(tmp_path / "a.csv", [{"question": "Q?", "тема": "t", "глава": "g", "分甲": "x"}])
    assert read_questions(path)[0].choices == ()


@pytest.mark.parametrize(
    ("name", "problem"),
    [("Lösung", "but .* has no such column"), ("question", "read as part of the question or its choices")],
)
def test_an_answer_setting_that_cannot_be_followed_is_named(tmp_path, name, problem):
    path = write(tmp_path / "a.csv", [{"question": "Q?", "A": "x", "B": "y"}])
    with pytest.raises(DataError, match=f"questions.fields.answer is '{name}'.*{problem}"):
        load_answer_key([path], read_questions(path), fields={"answer": name})


@pytest.mark.parametrize("first", ["Choices", "Options"])
def test_a_merged_header_names_the_columns_beside_it_and_the_setting_that_reads_them(tmp_path, first):
    book = openpyxl.Workbook()
    for cells in [
        ["Question", first, None, None, "Answer"],
        ["Q?", "x", "y", "z", "B"],
        ["R?", 2, 3, 4, "A"],
    ]:
        book.active.append(cells)
    path = str(tmp_path / "a.xlsx")
    book.save(path)
    message = error_of(path)
    assert (
        f"{first} holds no list of choices (it is 'x'), and column 3, column 4 beside it have no name"
        in message
    )
    assert f"questions.fields={{choices: [{first}, 'column 3', 'column 4']}}" in message
    fields = {"choices": [first, "column 3", "column 4"]}
    questions = read_questions(path, fields=fields)
    assert [question.choices for question in questions] == [("x", "y", "z"), ("2", "3", "4")]
    assert [*load_answer_key([path], questions, fields=fields).values()] == ["B", "A"]


def test_nameless_columns_beside_lists_of_choices_are_only_ignored(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('question,choices,\nQ?,"[""x"", ""y""]",a note\n')
    assert read_questions(str(path))[0].choices == ("x", "y")


def test_nameless_columns_beside_questions_that_list_their_choices_are_only_ignored(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('question,\n"Which?\na) x\nb) y",a note\n')
    fields = {"question": "question", "choices": "question"}
    assert read_questions(str(path), fields=fields)[0].choices == ("x", "y")
