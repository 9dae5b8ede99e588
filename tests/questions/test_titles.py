"""A title above the header of a table is left out and named, and nothing else is taken for one."""

import logging
from pathlib import Path

import openpyxl
import pytest

from neuron_opsd.questions.read import read_file, read_questions

TITLES = {
    "padded": "Biology exam 2024;;;;\n;;;;\n\nQuestion;A;B;C;Answer\nWhy?;x;y;z;B\n",
    "padded, with a subtitle": "Biology exam;;;;\nSpring;;;;\nQuestion;A;B;C;Answer\nWhy?;x;y;z;B\n",
    "bare": "Biology exam 2024\nQuestion;A;B;C;Answer\nWhy?;x;y;z;B\n",
    "bare, with commas": "Biology exam 2024\n\nQuestion,A,B,C,Answer\nWhy?,x,y,z,B\n",
    "bare, with tabs": "Biology exam 2024\nQuestion\tA\tB\tC\tAnswer\nWhy?\tx\ty\tz\tB\n",
}


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8-sig")
    return str(path)


@pytest.mark.parametrize("case", TITLES)
def test_a_title_above_the_header_of_csv_is_left_out_and_named(tmp_path, caplog, case):
    path = write(tmp_path / "a.csv", TITLES[case])
    with caplog.at_level(logging.INFO):
        file = read_file(path)
    assert [(question.question, question.choices) for question in file.questions] == [
        ("Why?", ("x", "y", "z"))
    ]
    line = next(k for k, text in enumerate(TITLES[case].splitlines(), 1) if text.startswith("Why"))
    assert file.places == [f"{path}:{line}"]
    assert "title rows above the header: 'Biology exam" in caplog.text


def test_a_title_above_a_header_of_unknown_names_is_left_out(tmp_path):
    path = write(tmp_path / "a.csv", "Klausur;;;\nFrage;Antwort A;Antwort B;Antwort C\nWarum?;x;y;z\n")
    fields = {"question": "Frage", "choices": ["Antwort A", "Antwort B", "Antwort C"]}
    assert read_questions(path, fields=fields)[0].choices == ("x", "y", "z")


@pytest.mark.parametrize(
    ("text", "fields", "questions"),
    [
        ("question\nWhy, or how?\n", {}, None),
        ("question;\nWhy?;a note\n", {}, ["Why?"]),
        ("question;;;\nWhy?;a;b;c\n", {}, ["Why?"]),
        ("Frage;\nWarum?;eine Notiz\n", {"question": "Frage"}, ["Warum?"]),
        ("Frage;;\nWarum?;;\nWie?;a;b\n", {"question": "Frage"}, ["Warum?", "Wie?"]),
        ("Frage\nWarum; wie?\n", {"question": "Frage"}, ["Warum; wie?"]),
    ],
)
def test_a_header_with_one_name_is_no_title(tmp_path, text, fields, questions):
    path = write(tmp_path / "a.csv", text)
    if questions is None:
        with pytest.raises(Exception, match="has 2 cells, and the header 1"):
            read_questions(path)
        return
    assert [question.question for question in read_questions(path, fields=fields)] == questions


def test_a_sheet_with_titles_is_read_below_them(tmp_path):
    book = openpyxl.Workbook()
    for cells in [["Exam"], ["Spring"], ["question", "A", "B"], ["Why?", "x", "y"]]:
        book.active.append(cells)
    book.save(tmp_path / "a.xlsx")
    assert read_questions(str(tmp_path / "a.xlsx"))[0].choices == ("x", "y")
