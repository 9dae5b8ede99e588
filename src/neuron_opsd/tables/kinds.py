"""The first bytes of a file -> what it is, where its name says otherwise: a PDF named .csv, a workbook named .csv."""

import re
import zipfile
from pathlib import Path

from neuron_opsd.errors import DataError

_HEAD = 1024  # bytes that are looked at

_SAVE = "save that as .csv or .xlsx"
# What a file begins with, what that is, and what to do.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (rb"%PDF-", "a PDF", "Export its questions as a table (.csv or .xlsx)"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.xls or .doc)", "Save it as .xlsx or .csv"),
    (rb"\{\\rtf", "an RTF document", f"Copy its questions into a table, and {_SAVE}"),
    (rb"\s*<(?i:!doctype html|html|head|body)\b", "a web page (HTML)", "Download the file that it links to"),
    (rb"\s*<\?xml\b", "XML", "Export its questions as a table (.csv, .xlsx or .jsonl)"),
    (rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a", "an image", f"Type its questions into a table, and {_SAVE}"),
    (rb"PAR1[\0-\x08\x0e-\x1f]", "a Parquet file", "Rename it to end in .parquet"),
    (rb"SQLite format 3\0", "an SQLite database", "Export the table of its questions as .csv"),
    (rb"\x1f\x8b", "a gzip file", "Rename it to end in .gz, such as questions.csv.gz"),
    (
        rb"version https://git-lfs\.github",
        "a pointer of Git LFS, without the file itself",
        "Run git lfs pull",
    ),
)
_DOCUMENTS = {
    "word/": "a Word document (.docx)",
    "ppt/": "a PowerPoint file (.pptx)",
    "content.xml": "an OpenDocument file",
}
_BY_SUFFIX = {".parquet": "a Parquet file", ".xlsx": "an Excel workbook", ".gz": "a gzip file"}


def check_kind(path: str, file: Path) -> None:
    """Refuse a file that is of another kind than its name says.

    Raises:
        DataError: it says what the file is, and what to do.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return  # the reader says why
    kind, advice = _kind(head, file)
    if kind and kind != _BY_SUFFIX.get(file.suffix.lower()):
        raise DataError(f"{path} is {kind}, whatever its name says. {advice}.")


def _kind(head: bytes, file: Path) -> tuple[str, str]:
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(file)
    text = head.removeprefix(b"\xef\xbb\xbf")
    for beginning, kind, advice in _BEGINNINGS:
        if re.match(beginning, text):
            return kind, advice
    return "", ""


def _kind_of_zip(file: Path) -> tuple[str, str]:
    """Office files are zip archives: the names within tell which."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = []
    if any(name.startswith("xl/") for name in names):
        return _BY_SUFFIX[".xlsx"], "Rename it to end in .xlsx, or save it as .csv"
    for begin, kind in _DOCUMENTS.items():
        if any(name.startswith(begin) for name in names):
            return kind, f"Copy its questions into a table, and {_SAVE}"
    if not names and file.suffix.lower() == ".xlsx":
        return "", ""  # its reader says how it is damaged
    return "a zip archive", "Unpack it, and name the file within"
