"""A file that is not what its name says, or whose end is missing, is called what it is."""

import gzip
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuron_opsd.errors import DataError
from neuron_opsd.questions.read import read_questions


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_questions(str(path))
    return str(caught.value)


def archive(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened:
        for name in names:
            opened.writestr(name, "x")
    return made.getvalue()


def parquet() -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table({"question": ["Q?"]}), made)
    return made.getvalue()


KINDS = {
    "a PDF": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\n",
    "a Word document (.docx)": archive("[Content_Types].xml", "word/document.xml"),
    "a PowerPoint file (.pptx)": archive("ppt/presentation.xml"),
    "an OpenDocument file": archive("mimetype", "content.xml"),
    "an Excel workbook": archive("[Content_Types].xml", "xl/workbook.xml"),
    "a zip archive": archive("questions.csv"),
    "an old Office file": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),
    "an RTF document": b"{\\rtf1\\ansi Which?}",
    "a web page": b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "XML": b"<?xml version='1.0'?><quiz/>",
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "a Parquet file": parquet(),
    "a gzip file": gzip.compress(b"question\nQ?\n"),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "xlsx", "parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, kind, suffix):
    if (kind, suffix) in (("an Excel workbook", "xlsx"), ("a Parquet file", "parquet")):
        return
    path = tmp_path / f"exam.{suffix}"
    path.write_bytes(KINDS[kind])
    message = error_of(path)
    assert f"exam.{suffix} is {kind}" in message
    assert "questions.fields" not in message


@pytest.mark.parametrize(
    "text",
    [
        "question\n<html> is what?\n",
        "PK,question\n1,Q?\n",
        "PAR1,question\n1,Q?\n",
        "PAR1\tquestion\n1\tQ?\n",
        "%PDF,question\n1,Q?\n",
    ],
)
def test_tables_that_begin_a_little_like_another_kind_are_read(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert len(read_questions(str(path))) == 1


CUT = "The text is incomplete: the file may be cut off. Copy or download it again."


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.jsonl",
            '{"question": "Q?"}\n{"question',
            f":2 is not valid JSON: Unterminated string starting at column 2. {CUT}",
        ),
        ("a.jsonl", '{"question": "Q?"}\n{"question":', f"at column 13. {CUT}"),
        ("a.jsonl", '{"question": "Q\n?"}\n', "column 14. The line is incomplete: a text lacks its closing"),
        ("a.json", '[{"question": "Q?"},\n{"question": "R', CUT),
        ("a.json", '[{"question": "Q?"},\n', CUT),
        ("a.json", '{"x": {"question": "Q?"}, "y": {"ques', CUT),
    ],
)
def test_json_whose_end_is_missing_says_so(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text)
    message = error_of(path)
    assert expected in message
    assert "at at" not in message


@pytest.mark.parametrize("text", ['{"question": x}\n', '{"question": "Q?",, "a": 1}', "no JSON\n"])
def test_json_that_is_wrong_within_is_not_called_cut_off(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    assert "incomplete" not in error_of(path)


def test_half_a_word_document_is_no_table(tmp_path):
    path = tmp_path / "exam.csv"
    path.write_bytes(KINDS["a Word document (.docx)"][:60])
    assert "exam.csv is a zip archive" in error_of(path)
