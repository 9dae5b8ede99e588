import json
import logging
import os
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuron_opsd.errors import DataError
from neuron_opsd.questions.load import content_id, read_questions
from neuron_opsd.tables.columns import find_columns, is_answer_column

GOOD = {"question": "Is water wet?", "choices": ["yes", "no"]}


def write_jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def error_of(path: object) -> str:
    with pytest.raises(DataError) as caught:
        read_questions(str(path))
    return str(caught.value)


# --- what is read


def test_every_field_of_a_json_line_arrives(tmp_path):
    row = GOOD | {"question_id": "w1", "domain": "physics", "system": "Be brief."}
    (question,) = read_questions(write_jsonl(tmp_path / "a.jsonl", [row]))
    assert (question.question_id, question.domain, question.system) == ("w1", "physics", "Be brief.")
    assert (question.question, question.choices, question.split) == ("Is water wet?", ("yes", "no"), "train")


def test_defaults_are_the_content_and_the_file_name(tmp_path):
    path = write_jsonl(tmp_path / "biology.questions.jsonl", [{"question": "Why?"}, GOOD])
    free, closed = read_questions(path)
    assert free.question_id == content_id("Why?")
    assert closed.question_id == content_id("Is water wet?", ["no", "yes"])
    assert free.choices == ()
    assert free.system is None
    assert free.domain == "biology"


def test_integer_ids_become_strings(tmp_path):
    (question,) = read_questions(write_jsonl(tmp_path / "a.jsonl", [GOOD | {"question_id": 7}]))
    assert question.question_id == "7"


def test_text_survives_as_it_is(tmp_path):
    text = "  {braces} $\\frac{1}{2}$ <|im_end|> 🧬\u2028 and é\n\n\tend  "
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": text}, ensure_ascii=False) + "\r\n\r\n", encoding="utf-8")
    assert read_questions(str(path))[0].question == text


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(read_questions(str(path))) == 1


@pytest.mark.parametrize(
    "text",
    [
        'question,choices\nIs water wet?,"[""yes"", ""no""]"\n',
        "question,choice_a,choice_b,choice_c\nIs water wet?,yes,no,\n",
        "question,A,B\nIs water wet?,yes,no\n",
        "question,option_1,option_2\n\nIs water wet?,yes,no\n",
    ],
)
def test_csv_takes_choices_as_a_list_or_as_columns(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    (question,) = read_questions(str(path))
    assert (question.question, question.choices) == ("Is water wet?", ("yes", "no"))


def test_csv_quotes_commas_and_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('question,domain\n"One, ""two""\nthree",\n', encoding="utf-8")
    (question,) = read_questions(str(path))
    assert (question.question, question.domain) == ('One, "two"\nthree', "a")


def test_parquet_equals_jsonl(tmp_path):
    rows = [GOOD | {"answer": "A"}, {"question": "Why?", "choices": None, "answer": "B"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    assert read_questions(str(tmp_path / "q.parquet")) == read_questions(
        write_jsonl(tmp_path / "q.jsonl", rows)
    )


def test_choices_as_text_and_label_columns_of_the_hub(tmp_path):
    row = {"question": "Is water wet?", "choices": {"label": ["A", "B"], "text": ["yes", "no"]}}
    assert read_questions(write_jsonl(tmp_path / "a.jsonl", [row]))[0].choices == ("yes", "no")


# --- answers, unknown columns


@pytest.mark.parametrize(
    "name",
    [
        *("answer", "answers", "Answer", "ANSWER", "answer_index", "answerKey", "answer_key", "long_answer"),
        *("gold", "gold_answer", "label", "labels", "target", "correct", "correct_answer", "ground_truth"),
        *("solution", "explanation", "rationale", "final_decision", "cop"),
    ],
)
def test_answer_columns_are_known_and_never_read(name):
    assert is_answer_column(name)
    assert name not in find_columns(["question", "A", "B", name], {}, where="f").read


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_answers_are_dropped_and_named_once(tmp_path, caplog, suffix):
    rows = [{"question": f"Q{k}?", "Answer": "the-answer", "rationale": "r", "year": "1"} for k in range(3)]
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        path.write_text("question,Answer,rationale,year\n" + "Q?,the-answer,r,1\n", encoding="utf-8")
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    with caplog.at_level(logging.INFO):
        questions = read_questions(str(path))
    assert "the-answer" not in repr(questions)
    notices = [message for message in caplog.messages if "columns" in message]
    assert len(notices) == 2
    assert "dropped the answer columns Answer, rationale." in notices[0]
    assert "ignored the columns year" in notices[1]


def test_answers_change_no_record(tmp_path):
    with_answers = [GOOD | {"answer": "A", "solution": "because"}]
    plain = read_questions(write_jsonl(tmp_path / "a.jsonl", [GOOD]))
    (tmp_path / "b").mkdir()
    assert read_questions(write_jsonl(tmp_path / "b" / "a.jsonl", with_answers)) == plain


# --- bad input


def test_broken_json_names_file_and_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps(GOOD) + "\n") * 6 + '{"question": "x"\n', encoding="utf-8")
    assert error_of(path).startswith(
        f"{path}:7 is not valid JSON: Expecting ',' delimiter at column 17.\n1 of the 7 "
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"]}, "has no column for the question. It has: choices."),
        ({"question": None}, "question is empty"),
        ({"question": " \n"}, "question is empty"),
        ({"question": 3}, "question is 3 (int). It must be a string"),
        ({"question": "\ud800"}, "half a surrogate pair"),
        (GOOD | {"choices": ["one"]}, "has 1 choice(s). Write 2 to 26"),
        (GOOD | {"choices": [str(k) for k in range(27)]}, "has 27 choice(s)"),
        (GOOD | {"choices": ["a", ""]}, "has 1 choice(s) once blank and repeated ones are dropped"),
        (GOOD | {"choices": ["a", True]}, "choices[1] is True (bool)"),
        (GOOD | {"choices": "a"}, "choices is 'a'. It must be a list"),
        (GOOD | {"choices": {"yes": "a", "no": "b"}}, "has the keys 'yes, no'. They must be letters"),
        (GOOD | {"choices": ["a", " a "]}, "has 1 choice(s) once blank and repeated ones are dropped"),
        (GOOD | {"domain": 1}, "domain is 1 (int)"),
        (GOOD | {"domain": ""}, "domain is empty"),
        (GOOD | {"question_id": True}, "question_id is True (bool)"),
        (GOOD | {"system": ["x"]}, "system is ['x'] (list)"),
        (
            GOOD | {"A": "x", "B": "y"},
            "may hold the choices: choices or [A, B]. Say which: questions.fields={choices",
        ),
        ({"question": "Q", "A": "x", "C": "y"}, "with a gap"),
        (["question"], "holds a str, not an object"),
    ],
)
def test_bad_rows_name_line_and_reason(tmp_path, row, message):
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    assert error_of(path).startswith(f"{path}")
    assert message in error_of(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a", "question": "b"}', "has the key 'question' twice"),
        ("[" * 100_000, "is not usable JSON"),
        ('{"question": 1' + "0" * 5000 + "}", "is not usable JSON"),
    ],
)
def test_odd_json(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(line, encoding="utf-8")
    assert message in error_of(path)


def test_an_id_with_two_contents(tmp_path):
    rows = [{"question": "a", "question_id": "x"}, {"question": "b", "question_id": "x"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert f"{path}:2 question_id 'x' already names another question, at {path}:1" in error_of(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,domain\nQ\n", ":2 has 1 cells, and the header 2, separated by commas"),
        ("question,question\nQ,R\n", ":1: the header names 'question' more than once"),
        ('question\n"Q" x\n', ":2 is not valid CSV"),
        ('question\nfine\n"never closed\n', ":3 is not valid CSV"),
        ("question,choices\nQ,yes;no\n", ":2 choices is 'yes;no'. It must be a list"),
        (
            "title\nQ\n",
            "has no column for the question. It has: title. If it is 'title': questions.fields={question",
        ),
        ("question\n", "holds no rows"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    assert message in error_of(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).write_text("\n \n", encoding="utf-8")
    assert "holds no rows" in error_of(tmp_path / name)


def test_bad_parquet(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really PAR1")
    assert "is not a readable Parquet file" in error_of(tmp_path / "a.parquet")
    pq.write_table(pa.table({"year": [1, 2]}), tmp_path / "b.parquet")
    assert "has no column for the question. It has: year" in error_of(tmp_path / "b.parquet")
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), tmp_path / "c.parquet")
    assert "holds no rows" in error_of(tmp_path / "c.parquet")


def test_unsupported_suffix_and_folder(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    assert "ends in '.txt', which is not supported. Use one of .jsonl" in error_of(tmp_path / "a.txt")
    assert "is a folder" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "a.parquet", "a.xlsx"])
def test_a_pipe_and_an_endless_file_are_not_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "is a pipe or a device" in error_of(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    assert "is a pipe or a device" in error_of(tmp_path / name)


# --- missing files and the hub


@pytest.mark.parametrize(
    "path", ["nope.jsonl", "a/b/nope", "./nope", "~/nope", "nope.txt", "x" * 5000 + ".csv"]
)
def test_a_missing_file_is_no_hub_look_up(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it would fail
    assert "There is no file" in error_of(path)


def test_a_hub_name_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'neuron-opsd[datasets]'" in error_of("owner/name")


def test_a_hub_name_offline_needs_no_network():
    message = error_of("owner/no-such-data-set")
    assert message.startswith("owner/no-such-data-set is not a file here, and `datasets` cannot load")


def test_a_hub_data_set_without_its_answers(monkeypatch):
    import datasets

    loaded = {
        "train": datasets.Dataset.from_list([GOOD | {"label": "the-answer"}]),
        "validation": datasets.Dataset.from_list([{"question": "Why?"}]),
    }
    fake = types.SimpleNamespace(load_dataset=lambda name, config: datasets.DatasetDict(loaded))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    (question,) = read_questions("owner/name")
    assert (question.domain, question.choices) == ("name", ("yes", "no"))
    assert read_questions("owner/name::validation")[0].question == "Why?"
    assert "has the splits train, validation" in error_of("owner/name:main:test")
