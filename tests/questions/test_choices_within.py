"""Choices that a question's own text lists, or one cell of lines: read, or refused with advice."""

import json
from pathlib import Path

import pytest

from neuron_opsd.errors import DataError
from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.questions.read import read_file, read_questions
from neuron_opsd.tables.marked import marked_lines, marks_within

TEXTS = ("Nucleus", "Mitochondrion", "Ribosome")
LISTS = {
    "capitals": ("A) {} \nB) {}\nC) {}", "B"),
    "capitals with both marks": ("A.) {}\nB.) {}\nC.) {}", "B"),
    "small letters": ("a) {}\nb) {}\nc) {}", "b"),
    "small letters in brackets": ("(a) {}\n(b) {}\n(c) {}", "B"),
    "small letters with stops": (" a. {}\n b. {}\n c. {}", "B"),
    "Windows lines": ("a) {}\r\nb) {}\r\nc) {}", "B"),
    "numbers": ("1. {}\n2. {}\n3. {}", 2),
    "numbers with both marks": ("1.) {}\n2.) {}\n3.) {}", "2"),
    "Cyrillic": ("а) {}\nб) {}\nв) {}", "Б"),
    "Chinese": ("甲、{}\n乙、{}\n丙、{}", "乙"),
    "wide": ("A．{}\nB．{}\nC．{}", "B"),
}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def error_of(path: str, **settings) -> str:
    with pytest.raises(DataError) as caught:
        read_questions(path, **settings)
    return str(caught.value)


@pytest.mark.parametrize("style", LISTS)
def test_choices_within_the_text_stop_until_they_are_read_or_called_free_form(tmp_path, style):
    lines, answer = LISTS[style]
    path = write(tmp_path / "a.jsonl", [{"question": f"Most ATP?\n{lines.format(*TEXTS)}", "answer": answer}])
    message = error_of(path)
    assert "questions.fields={question: question, choices: question}" in message
    assert "For free-form questions: questions.fields={choices: null}" in message
    assert read_questions(path, fields={"choices": None})[0].choices == ()
    fields = {"question": "question", "choices": "question"}
    (question,) = read_questions(path, fields=fields)
    assert (question.question, question.choices) == ("Most ATP?", TEXTS)
    assert [*load_answer_key([path], [question], fields=fields).values()] == ["B"]


@pytest.mark.parametrize("style", LISTS)
def test_a_cell_of_marked_lines_is_read(tmp_path, style):
    lines, answer = LISTS[style]
    path = write(
        tmp_path / "a.jsonl", [{"question": "Q?", "choices": lines.format(*TEXTS), "answer": answer}]
    )
    (question,) = read_questions(path)
    assert question.choices == TEXTS
    assert [*load_answer_key([path], [question]).values()] == ["B"]


@pytest.mark.parametrize(
    "text",
    [
        "Most ATP? A) Nucleus B) Mitochondrion C) Ribosome",
        "Most ATP? A. Nucleus B. Mitochondrion",
        "Most ATP? (a) Nucleus, (b) Mitochondrion",
        "Most ATP? 1) Nucleus 2) Mitochondrion",
        "Most ATP? A) Nucleus\nB) Mitochondrion",
    ],
)
def test_choices_within_a_line_stop_and_are_not_parted(tmp_path, text):
    path = write(tmp_path / "a.jsonl", [{"question": text}])
    assert "They stand within a line" in error_of(path)
    assert "Begin a line with each" in error_of(path)
    within = error_of(path, fields={"question": "question", "choices": "question"})
    assert "a.jsonl:1 question lists its choices" in within
    assert "Begin a line with each" in within
    assert read_questions(path, fields={"choices": None})[0].choices == ()


@pytest.mark.parametrize(
    "text",
    [
        "Give these doses:\n1.5 mg\n2.5 mg",
        "He came at 3 a.m. or b. Why?",
        "Findings:\na) fever\nb) cough\nWhat is the diagnosis?",
        "Name one (a) only.",
        "Vitamin B) or A)?",
    ],
)
def test_other_texts_list_no_choices(tmp_path, text):
    assert read_questions(write(tmp_path / "a.jsonl", [{"question": text}]))[0].question == text


def test_a_vignette_with_choices_of_its_own_is_left_as_it_is(tmp_path):
    text = "He has a) fever and b) a cough.\na) Blood is taken.\nb) It is clear.\n1. one\n2. two"
    path = write(tmp_path / "a.jsonl", [{"question": text, "choices": ["x", "y"]}])
    (question,) = read_questions(path)
    assert (question.question, question.choices) == (text, ("x", "y"))


def test_of_two_lists_the_capitals_are_the_choices_and_else_the_last():
    assert marked_lines("Which?\n1. p\n2. q\nA. 1 alone\nB. both").texts == ("1 alone", "both")
    assert marked_lines("Which?\na) p\nb) q\n1. a alone\n2. both").texts == ("a alone", "both")
    assert marks_within("x? A) 1 B) 2 D) 3") == ("A", "B")


def test_one_text_of_many_that_lists_choices_is_noticed(tmp_path):
    rows = [{"question": "One? a) x b) y"}, {"question": "Two?"}, {"question": "Three?"}]
    file = read_file(write(tmp_path / "a.jsonl", rows))
    assert [count for what, count in file.changes.items() if "in their text" in what] == [1]


def test_a_setting_that_finds_no_choices_in_any_text_stops(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "Why?"}, {"question": "How?"}])
    message = error_of(path, fields={"question": "question", "choices": "question"})
    assert "none of the 2 texts" in message
    assert "begin with A., a) or 1." in message


def test_choices_with_a_gap_name_their_letters(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "Which?\nA. x\nC. y"}])
    assert "lines that begin with A, C" in error_of(
        path, fields={"question": "question", "choices": "question"}
    )


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("A) x; B) y", "separated by ';'"),
        ("x|y", "separated by '|'"),
        ("x\ty", "separated by tabs"),
        ("x\r\ny", "begin with no letter or number"),
        ("A. x\nC. y", "begin with A, C"),
        ("Choose:\nA. x\nB. y", "Before its first choice it has 'Choose:'"),
        ('["x", "y]', "look at its quotation marks"),
    ],
)
def test_a_cell_that_cannot_be_cut_says_why(tmp_path, cell, reason):
    message = error_of(write(tmp_path / "a.jsonl", [{"question": "Q?", "choices": cell}]))
    assert "a.jsonl:1 choices is " in message
    assert reason in message
    assert "It must be a list" in message
    assert "\\r" not in message
    assert "\\n" not in message


def test_an_answer_that_is_also_a_text_of_numbered_choices_is_settled_by_the_setting(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "Q?", "choices": "1. 2\n2. 3\n3. 4", "answer": "3"}])
    questions = read_questions(path)
    (question_id,) = (question.question_id for question in questions)
    assert load_answer_key([path], questions, answer_base=1) == {question_id: "C"}
    assert load_answer_key([path], questions, answer_base="text") == {question_id: "B"}
