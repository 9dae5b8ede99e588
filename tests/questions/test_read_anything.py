"""Whatever the file holds, it is read correctly or refused with a DataError; no other exception escapes."""

import io
import json
from functools import cache
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malformed import result_or_message, spoiled
from neuron_opsd.errors import DataError
from neuron_opsd.questions.load import read_questions


def write_jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@settings(max_examples=150)
@given(
    data=st.binary(max_size=200),
    suffix=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "xlsx", "csv.gz"]),
)
def test_any_bytes_are_read_or_refused(tmp_path, data, suffix):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(data)
    try:
        questions = read_questions(str(path))
    except DataError:
        return
    assert all(question.question.strip() for question in questions)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    [
        *("question", "choices", "question_id", "domain", "system", "A", "B", "answer", "\ud800"),
        *("Options", "opa", "opb", "passage", "stem", "id", "answer_a", "answer_b"),
    ]
)


@settings(max_examples=200)
@given(rows=st.lists(st.dictionaries(keys, json_values, max_size=5), min_size=1, max_size=3))
def test_any_json_is_read_or_refused(tmp_path, rows):
    path = write_jsonl(tmp_path / "any.jsonl", rows)
    try:
        questions = read_questions(path)
    except DataError:
        return
    assert all(question.question.strip() and len(question.choices) != 1 for question in questions)
    assert len(questions) == len(rows)  # of so few rows none may be left out


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=100)
@given(asked=st.lists(texts, min_size=1, max_size=5))
def test_what_was_written_is_read(tmp_path, asked):
    path = write_jsonl(tmp_path / "any.jsonl", [{"question": text} for text in asked])
    assert [question.question for question in read_questions(path)] == asked


ROWS = [
    {"question_id": f"q{i}", "question": f"What is {i} + 1?", "choices": [str(i), str(i + 1)]}
    for i in range(4)
]


@cache
def workbook() -> bytes:
    """Made once: it holds the time at which it was made."""
    book, made = openpyxl.Workbook(), io.BytesIO()
    for cells in [["question", "A", "B"], *([f"What is {i} + 1?", i, i + 1] for i in range(4))]:
        book.active.append(cells)
    book.save(made)
    return made.getvalue()


def good_file(path: Path) -> bytes:
    match path.suffix:
        case ".jsonl":
            write_jsonl(path, ROWS)
        case ".csv":
            path.write_text(
                "question_id,question,A,B\n"
                + "".join(f"q{i},What is {i} + 1?,{i},{i + 1}\n" for i in range(4))
            )
        case ".json":
            path.write_text(json.dumps(ROWS, indent=1))
        case ".tsv":
            path.write_text(
                "question\tA\tB\n" + "".join(f"What is {i} + 1?\t{i}\t{i + 1}\n" for i in range(4))
            )
        case ".xlsx":
            path.write_bytes(workbook())
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "xlsx"])
@settings(max_examples=100)
@given(data=st.data())
def test_a_spoiled_file_is_read_or_refused(tmp_path, caplog, suffix, data):
    path = tmp_path / f"spoiled.{suffix}"
    path.write_bytes(data.draw(spoiled(good_file(path))))
    caplog.clear()
    questions, message = result_or_message(lambda: read_questions(str(path)))
    if questions is None:
        assert path.name in message
        return
    assert all(question.question.strip() and len(question.choices) != 1 for question in questions)
    if suffix == "jsonl" and "left out" not in caplog.text:
        num_rows = sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
        assert len(questions) == num_rows  # nothing is lost in silence
