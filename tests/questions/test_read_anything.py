"""Whatever the file holds, it is read correctly or refused with a DataError; no other exception escapes."""

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_opsd.errors import DataError
from neuron_opsd.questions.load import read_questions


def write_jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), suffix=st.sampled_from(["jsonl", "csv", "parquet"]))
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
    ["question", "choices", "question_id", "domain", "system", "A", "B", "answer", "\ud800"]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(keys, json_values, max_size=5), min_size=1, max_size=3))
def test_any_json_is_read_or_refused(tmp_path, rows):
    path = write_jsonl(tmp_path / "any.jsonl", rows)
    try:
        questions = read_questions(path)
    except DataError:
        return
    assert [question.question for question in questions] == [row["question"] for row in rows][
        : len(questions)
    ]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(texts, min_size=1, max_size=5))
def test_what_was_written_is_read(tmp_path, asked):
    path = write_jsonl(tmp_path / "any.jsonl", [{"question": text} for text in asked])
    assert [question.question for question in read_questions(path)] == asked
