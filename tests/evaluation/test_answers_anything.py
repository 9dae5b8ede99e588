"""Whatever an answer file holds, it is read correctly or refused with a DataError that names it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malformed import result_or_message, spoiled
from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.records import Question

QUESTIONS = [
    Question(question_id=f"q{i}", domain="d", question=f"What is {i} + 1?", choices=("one", "two", "three"))
    for i in range(4)
] + [Question(question_id="free", domain="d", question="Why?")]
ROWS = [{"question_id": f"q{i}", "answer": "ABCA"[i]} for i in range(4)] + [
    {"question_id": "free", "answer": "because"}
]


def read_or_refuse(path: Path) -> None:
    key, message = result_or_message(lambda: load_answer_key([path], QUESTIONS))
    if key is None:
        assert path.name in message
        return
    assert key.keys() <= {question.question_id for question in QUESTIONS}
    assert all(answer in "ABC" for question_id, answer in key.items() if question_id != "free")


def good_file(path: Path) -> bytes:
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        case ".csv":
            path.write_text(
                "question_id,answer\n" + "".join(f"{row['question_id']},{row['answer']}\n" for row in ROWS)
            )
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@settings(max_examples=200)
@given(data=st.data())
def test_a_spoiled_file_is_read_or_refused(tmp_path, suffix, data):
    path = tmp_path / f"spoiled.{suffix}"
    path.write_bytes(data.draw(spoiled(good_file(path)) | st.binary(max_size=60)))
    read_or_refuse(path)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["A", "B. two"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["question_id", "answer", "question", "choices", "A", "B", "choice_c", "\ud800"])
known = st.fixed_dictionaries({"question_id": st.sampled_from(["q0", "q1", "free"])})


@settings(max_examples=200)
@given(
    rows=st.lists(
        st.builds(dict.__or__, st.dictionaries(keys, json_values, max_size=4), known), min_size=1, max_size=3
    )
)
def test_any_json_is_read_or_refused(tmp_path, rows):
    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read_or_refuse(path)
