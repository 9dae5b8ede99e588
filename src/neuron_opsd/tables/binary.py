"""Parquet, Excel and the data sets of the `datasets` library -> names of columns, and rows of those that are wanted."""

import datetime
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neuron_opsd.errors import DataError
from neuron_opsd.hub import hub_problem, use_cache_alone
from neuron_opsd.tables.delimited import MAX_TITLES, check_header, count_titles
from neuron_opsd.tables.rows import Row

logger = logging.getLogger(__name__)

IsWanted = Callable[[str], bool]
Named = tuple[Sequence[str], Iterator[Row]]


def read_parquet(path: str, file: Path, is_wanted: IsWanted) -> Named:
    """A Parquet file. Columns that are not wanted are not loaded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = check_header(list(pq.read_schema(file).names), path)
        # A file of unwanted columns only still has rows, each of which lacks its question.
        wanted = [name for name in names if is_wanted(name)]
        with pq.ParquetFile(file) as opened:
            rows = opened.read(columns=wanted).to_pylist() if wanted else [{}] * opened.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is not a readable Parquet file: {reason}") from None
    return names, (Row(f"{path} row {number}", row) for number, row in enumerate(rows, start=1))


def read_excel(path: str, file: Path) -> Named:
    """The first sheet of an Excel workbook that holds anything. A title above its header is left out."""
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{path} is an Excel file, which needs openpyxl. Install it with pip install 'neuron-opsd[excel]', or "
            "save the file as CSV."
        ) from None
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        sheets = {sheet.title: [tuple(row) for row in sheet.iter_rows()] for sheet in book.worksheets}
    except (zipfile.BadZipFile, OSError, KeyError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise DataError(f"{path} is not a readable Excel file ({error}). Save it again as .xlsx.") from None
    except Exception as error:  # of the XML within: openpyxl lets every error of its parser through
        raise DataError(f"{path} is not a readable Excel file ({type(error).__name__}: {error}).") from None
    return _sheet_rows(path, sheets)


def _sheet_rows(path: str, sheets: dict[str, list[tuple[Any, ...]]]) -> Named:
    filled = {
        name: [row for row in rows if any(_has_value(cell) for cell in row)] for name, rows in sheets.items()
    }
    filled = {name: rows for name, rows in filled.items() if rows}
    if not filled:
        return [], iter(())
    name, rows = next(iter(filled.items()))
    if len(filled) > 1:
        logger.warning("%s: read the sheet %r, and not %s", path, name, ", ".join(map(repr, [*filled][1:])))
    if num_titles := count_titles([_texts(row) for row in rows[:MAX_TITLES]], enough=2):
        logger.info("%s: left out %d title rows above the header of sheet %r", path, num_titles, name)
    header, *rows = rows[num_titles:]
    last = max(k for row in [header, *rows] for k, cell in enumerate(row) if _has_value(cell))
    names = [str(cell.value or "").strip() for cell in header[: last + 1]]
    where = f"{path} sheet {name!r}"
    return check_header(names + [""] * (last + 1 - len(names)), where), _excel_rows(where, names, rows)


def _excel_rows(where: str, names: Sequence[str], rows: list[tuple[Any, ...]]) -> Iterator[Row]:
    names = check_header(list(names), where)
    for row in rows:
        place = f"{where} row {next(cell.row for cell in row if _has_value(cell))}"
        try:
            yield Row(place, {name: _excel_value(cell) for name, cell in zip(names, row, strict=False)})
        except ValueError as error:
            yield Row(place, {}, str(error))


def _has_value(cell: Any) -> bool:
    return cell.value is not None and str(cell.value).strip() != ""


def _texts(row: Sequence[Any]) -> list[str]:
    return [str(cell.value) if _has_value(cell) else "" for cell in row]


def _excel_value(cell: Any) -> Any:
    """The cell as the sheet shows it, where Excel keeps another value: 0.2 for 20 %, a date for 1-2.

    Raises:
        ValueError: a date, or an error of a formula.
    """
    value = cell.value
    if isinstance(value, datetime.datetime | datetime.date | datetime.time | datetime.timedelta):
        raise ValueError(
            f"holds a date in {cell.coordinate} ({value}), which Excel may have made of another text. Format the "
            "column as text and write the cell again."
        )
    if cell.data_type == "e":
        raise ValueError(f"holds the error {value} in {cell.coordinate}. Fix the formula.")
    if isinstance(value, int | float) and not isinstance(value, bool) and "%" in (cell.number_format or ""):
        return f"{round(value * 100, 10):g}%"
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if not isinstance(value, str) or value.strip() else None


def read_data_set(name: str, is_wanted: IsWanted) -> Named:
    """A data set of the `datasets` library: owner/name, owner/name:config or owner/name:config:split."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{name} is not a file here, and the `datasets` library, which could fetch a data set so named, is "
            "not installed. Check the path, or run: pip install 'neuron-opsd[datasets]'"
        ) from None
    repository, config, split = [*name.split(":"), "", ""][:3]
    if problem := hub_problem():
        use_cache_alone(problem)
    try:
        loaded = datasets.load_dataset(repository, config or None)
    except Exception as error:  # hub, network, offline mode, builder: one message for all of them
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{name} is not a file here, and `datasets` cannot load a data set of that name: {reason[0]}. "
            "Check the path, or that the hub can be reached (HF_HUB_OFFLINE is heeded)."
        ) from None
    if split not in loaded and (split or "train" not in loaded):
        raise DataError(
            f"{name} has the splits {', '.join(map(str, loaded))}. Name one: {repository}:{config}:SPLIT"
        )
    table: Any = loaded[split or "train"]
    logger.info("%s: read the split '%s' of %s", name, split or "train", ", ".join(map(str, loaded)))
    wanted = [column for column in table.column_names if is_wanted(column)]
    rows = list(table.select_columns(wanted)) if wanted else [{}] * len(table)
    return table.column_names, (Row(f"{name} row {number}", row) for number, row in enumerate(rows, start=1))
