import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuron_opsd.errors import DataError
from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.records import Question
from neuron_opsd.text.content import content_id

CHOICES = ("red", "blue, or so", "7")


def choice_question(question_id="q1", choices=CHOICES):
    return Question(question_id=question_id, domain="d", question=f"Which? {question_id}", choices=choices)


def free_question(question_id="f1"):
    return Question(question_id=question_id, domain="d", question="How many?")


def write_jsonl(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def read_one(tmp_path, answer, question=None, **fields):
    question = question or choice_question()
    path = write_jsonl(
        tmp_path / "a.jsonl", {"question_id": question.question_id, "answer": answer, **fields}
    )
    return load_answer_key([path], [question])[question.question_id]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        ("b", "B"),
        (" C ", "C"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. blue, or so", "B"),
        ("b) Blue, or so.", "B"),
        ("A - red", "A"),
        ("red", "A"),
        ("The Red", "A"),
        ("blue, or so", "B"),
        (["B"], "B"),  # a list of one
        ("7", "C"),  # the text of a choice, and beyond any index of three choices
    ],
)
def test_every_way_to_write_a_choice(tmp_path, answer, letter):
    assert read_one(tmp_path, answer) == letter


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (1, "counted from 0 or from 1"),
        ("0", "counted from 0 or from 1"),
        (3, "counted from 0 or from 1"),
        ("D", "beyond the 3 choices"),
        ("D. red", "beyond the 3 choices"),
        ("A. blue, or so", "whose text is 'red'"),
        ("green", "neither a letter nor a choice's text"),
        (["A", "B"], "holds 2 answers"),
        ({"x": 1}, "Write a letter or the answer's text"),
        (True, "neither a letter nor a choice's text"),
        ("A, C", "names several letters"),
    ],
)
def test_unclear_answers_are_refused_with_their_place(tmp_path, answer, message):
    with pytest.raises(DataError, match=r"a\.jsonl:1 ") as caught:
        read_one(tmp_path, answer)
    assert message in str(caught.value)


def test_a_number_that_is_a_choice_and_an_index(tmp_path):
    numbers = choice_question(choices=("2", "3", "4"))
    assert read_one(tmp_path, "3", numbers) == "B"  # JSON text: the text of a choice
    with pytest.raises(DataError, match="or the text of a choice"):
        read_one(tmp_path, 3, numbers)
    path = tmp_path / "a.csv"
    path.write_text("question_id,answer\nq1,3\n")
    with pytest.raises(DataError, match=r"a\.csv:2 "):
        load_answer_key([path], [numbers])
    path.write_text("question_id,answer\nq1,4\n")  # no 0- or 1-based index reaches past 3
    assert load_answer_key([path], [numbers]) == {"q1": "C"}


def test_a_letter_that_is_the_text_of_another_choice(tmp_path):
    letters = choice_question(choices=("B", "A", "C"))
    with pytest.raises(DataError, match="also the text of choice B"):
        read_one(tmp_path, "A", letters)
    assert read_one(tmp_path, "C", letters) == "C"


def test_a_choice_that_begins_like_a_letter(tmp_path):
    worms = choice_question(choices=("E. coli", "C. elegans", "a mouse"))
    assert read_one(tmp_path, "c. elegans", worms) == "B"
    assert read_one(tmp_path, "C. a mouse", worms) == "C"
    assert read_one(tmp_path, "mouse", worms) == "C"


def test_free_form_answers_are_normalised(tmp_path):
    assert read_one(tmp_path, "1,234.50", free_question()) == "1234.5"
    assert read_one(tmp_path, 42, free_question()) == "42"
    assert read_one(tmp_path, "The Nile.", free_question()) == "nile"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"answers.{suffix}"
    rows = [{"question_id": "q1", "answer": "B"}, {"question_id": "f1", "answer": "nine, or 10"}]
    if suffix == "jsonl":
        write_jsonl(path, *rows)
    elif suffix == "csv":
        path.write_text('question_id,answer\nq1,B\nf1,"nine, or 10"\n', encoding="utf-8-sig")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert load_answer_key([path], [choice_question(), free_question()]) == {"q1": "B", "f1": "nine or 10"}


def test_a_labelled_question_file_is_its_own_answer_file(tmp_path):
    content = content_id("Which? q1", CHOICES)
    named, unnamed = choice_question(), choice_question()
    row = {"question": "Which? q1", "choices": ["7", "red", "blue, or so"], "answer": "A"}
    path = write_jsonl(tmp_path / "a.jsonl", row)
    assert load_answer_key([path], [named]) == {"q1": "C"}  # a letter means the file's own order of choices
    by_content = Question(question_id=content, domain="d", question=unnamed.question, choices=CHOICES)
    assert load_answer_key([path], [by_content]) == {content: "C"}


def test_choice_columns_and_json_lists_in_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('question,choice_a,choice_b,choice_c,answer\nWhich? q1,red,"blue, or so",7,B\n')
    assert load_answer_key([path], [choice_question()]) == {"q1": "B"}
    path.write_text('question,choices,answer\nWhich? q1,"[""7"", ""red"", ""blue, or so""]",red\n')
    assert load_answer_key([path], [choice_question()]) == {"q1": "A"}


def test_choices_of_another_question_are_refused(tmp_path):
    with pytest.raises(DataError, match="not those of question 'q1'"):
        read_one(tmp_path, "A", choices=["red", "green"])


def test_partial_foreign_and_blank_answers_are_counted_not_refused(tmp_path, caplog):
    rows = [
        {"question_id": "q1", "answer": "A"},
        {"question_id": "q2", "answer": None},
        {"question_id": "q3", "answer": " "},
        {"question_id": "q4", "answer": float("nan")},
        {"question_id": "other", "answer": "anything"},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", *rows)
    questions = [choice_question(f"q{i}") for i in range(1, 6)]
    with caplog.at_level(logging.INFO):
        assert load_answer_key([path], questions) == {"q1": "A"}
    assert "Left out 1 answers to questions that are not evaluated" in caplog.text
    assert "3 rows have no answer" in caplog.text
    assert "1 of 5 questions" in caplog.text
    assert load_answer_key([], questions) == {}


def test_the_same_answer_twice_is_fine_and_another_is_not(tmp_path):
    first = write_jsonl(tmp_path / "a.jsonl", {"question_id": "q1", "answer": "A"})
    same = write_jsonl(tmp_path / "b.jsonl", {"question_id": "q1", "answer": "red"})
    other = write_jsonl(tmp_path / "c.jsonl", "\n", {"question_id": "q1", "answer": "B"})
    assert load_answer_key([first, same], [choice_question()]) == {"q1": "A"}
    with pytest.raises(DataError, match=r"c\.jsonl:2 .*a\.jsonl:1 "):
        load_answer_key([first, other], [choice_question()])
    assert load_answer_key([first, other], [choice_question()], max_bad_fraction=1) == {}  # neither is used


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"question_id": "q1", "answer": "A"}\n{"question_id": "q1"', ":2 is not valid JSON"),
        ("a.jsonl", "[1]\n", ":1 holds a int, not an object"),
        ("a.jsonl", '{"question_id": "q1"}\n', "has no column for the answer. It has: 'question_id'"),
        ("a.jsonl", '{"answer": "A"}\n', ":1 has neither an id nor a question"),
        (
            "a.jsonl",
            '{"question_id": ["q1"], "answer": "A"}\n',
            ":1 question_id is ['q1'] (list). Write one id",
        ),
        (
            "a.jsonl",
            '{"question_id": {"id": "q1"}, "answer": "A"}\n',
            ":1 question_id is {'id': 'q1'} (dict)",
        ),
        ("a.jsonl", '{"question_id": true, "answer": "A"}\n', ":1 question_id is True (bool)"),
        ("a.csv", "question_id,answer\nq1,A,B\n", ":2 has 3 cells, and the header 2"),
        ("a.csv", 'question_id,answer\nq1,"A\n', "not valid CSV"),
        ("a.parquet", "PAR0", "not a readable Parquet file"),
        ("a.txt", "A", "which is not supported"),
    ],
)
def test_broken_files_name_file_and_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_answer_key([path], [choice_question()])
    assert name in str(caught.value)
    assert message in str(caught.value)


def test_not_utf8_and_missing_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"question_id": "q1", "answer": "A"}\n{"question_id": "q1", "answer": "'
        + b"\xff\xfe\xfa" * 9
        + b'"}\n'
    )
    with pytest.raises(DataError, match="jsonl:2 is not UTF-8"):
        load_answer_key([path], [choice_question()])
    with pytest.raises(DataError, match="There is no file"):
        load_answer_key([tmp_path / "none.jsonl"], [choice_question()])
