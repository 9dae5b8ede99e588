"""A path or the name of a data set -> its table, by whichever reader the name calls for."""

import os
import re
from pathlib import Path
from typing import Any

from neuron_opsd.errors import DataError
from neuron_opsd.tables.binary import IsWanted, read_data_set, read_excel, read_parquet
from neuron_opsd.tables.delimited import read_delimited
from neuron_opsd.tables.json_rows import read_json
from neuron_opsd.tables.kinds import check_kind
from neuron_opsd.tables.rows import Row, Table

TEXT_READERS: dict[str, Any] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".csv": read_delimited,
    ".tsv": read_delimited,
}
SUFFIXES = (*TEXT_READERS, ".parquet", ".xlsx")
READ = ", ".join(SUFFIXES) + " (text also with .gz)"


def read_table(path: str, *, is_wanted: IsWanted = lambda name: True) -> Table:
    """Read every row of a file or data set.

    Args:
        path: A file, or owner/name, owner/name:config or owner/name:config:split of the `datasets` library.
        is_wanted: Whether a column of this name is kept. Others leave nothing but their name. Of Parquet files and
            data sets they are not loaded.

    Raises:
        DataError: the file is missing, empty, of another format, or broken as a whole (with the line).
    """
    file = Path(os.path.expanduser(path))
    suffix = suffix_of(path)
    if os.path.isdir(file):
        raise DataError(f"{path} is a folder. Name one file ({READ}).")
    if not os.path.exists(file):  # not file.exists(), which raises on a name that is too long
        if is_file_name(path):
            raise DataError(f"There is no file {path} (looked in {Path.cwd()}). Check the path.")
        return _table(path, *read_data_set(path, is_wanted))
    if not os.path.isfile(file):
        raise DataError(
            f"{path} is a pipe or a device, and a run reads its files several times. Write a file first."
        )
    if suffix in SUFFIXES:
        check_kind(path, file)
    if suffix == ".parquet":
        return _table(path, *read_parquet(path, file, is_wanted))
    if suffix == ".xlsx":
        names, rows = read_excel(path, file)
    elif suffix in TEXT_READERS:
        rows = list(TEXT_READERS[suffix](path, file))
        names = list(dict.fromkeys(name for row in rows for name in row.values))
    else:
        raise DataError(f"{path} ends in '{file.suffix}', which is not supported. Use one of {READ}.")
    kept = (row._replace(values={k: v for k, v in row.values.items() if is_wanted(k)}) for row in rows)
    return _table(path, names, kept, is_typed=TEXT_READERS.get(suffix) is not read_delimited)


def _table(path: str, names: Any, rows: Any, *, is_typed: bool = True) -> Table:
    table = Table(path, tuple(names), tuple(rows), is_typed)
    if not table.rows:
        raise DataError(f"{path} holds no rows. Write one JSON object a line, or a header and rows.")
    return table


def suffix_of(path: str) -> str:
    """The suffix that tells the format: .csv of pool.csv and of pool.csv.gz."""
    name = Path(path).name.lower()
    inner = Path(name.removesuffix(".gz")).suffix
    return Path(name).suffix if name.endswith(".gz") and inner not in TEXT_READERS else inner


def stem_of(path: str) -> str:
    """The name without its suffixes: biology of data/biology.csv.gz, or name of the data set owner/name:config."""
    if suffix_of(path) in SUFFIXES:
        name = Path(path).name
        return Path(name[:-3] if name.lower().endswith(".gz") else name).stem
    return path.split(":")[0].rsplit("/", 1)[-1]


def is_file_name(path: str) -> bool:
    """A suffix of letters, or a path no hub name can have. So a typing error never becomes a hub look-up."""
    return (
        suffix_of(path) in SUFFIXES
        or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[^:/]*){0,2}", path)
        or bool(path.startswith((".", "~")) or re.search(r"\.[A-Za-z]{2,8}$", path))
    )


__all__ = ["Row", "Table", "is_file_name", "read_table", "stem_of"]
