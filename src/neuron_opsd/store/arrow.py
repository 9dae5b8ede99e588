"""Dataclass records as Arrow tables and back. The schema comes from the annotations."""

import dataclasses
import itertools
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Record = TypeVar("Record")
BATCH = 256  # records in memory as Python objects, where they are read one by one


def to_table(records: Sequence[Any], record_type: type) -> pa.Table:
    """Dataclass records as an Arrow table, a column for each field."""
    schema = schema_of(record_type)
    columns = [[_plain(getattr(record, field.name)) for record in records] for field in schema]
    return pa.Table.from_arrays(
        [_column(values, field.type) for values, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column. Lists of numbers, often of thousands, go through NumPy, which is six times as fast."""
    if not pa.types.is_list(kind) or not pa.types.is_primitive(kind.value_type):
        return pa.array(values, type=kind)
    ends = np.cumsum([0, *map(len, values)])
    numbers = itertools.chain.from_iterable(values)
    flat = np.fromiter(numbers, dtype=kind.value_type.to_pandas_dtype(), count=int(ends[-1]))
    return pa.ListArray.from_arrays(pa.array(ends, type=pa.int32()), pa.array(flat), type=kind)


def write_parquet(table: pa.Table, path: Path, record_type: type) -> None:
    """Write a table of `to_table`. Arrays of ascending ids become their differences, a third of the size."""
    hints = typing.get_type_hints(record_type)
    leaves = {
        name: f"{name}.list.element" for name, hint in hints.items() if typing.get_origin(hint) is np.ndarray
    }
    options: dict[str, Any] = {}
    if leaves:  # Parquet gives a column a dictionary or another encoding
        others = [pq_path for name in table.column_names for pq_path in (name, f"{name}.list.element")]
        options["use_dictionary"] = [name for name in others if name not in leaves.values()]
        options["column_encoding"] = dict.fromkeys(leaves.values(), "DELTA_BINARY_PACKED")
    pq.write_table(table, path, compression="zstd", **options)


def from_table(table: pa.Table, record_type: type[Record]) -> list[Record]:
    """Arrow table to dataclass records. The inverse of `to_table`."""
    hints = typing.get_type_hints(record_type)
    columns = [
        [_restore(value, hints[name]) for value in _python_column(table.column(name), hints[name])]
        for name in hints
    ]
    return [record_type(**dict(zip(hints, row, strict=True))) for row in zip(*columns, strict=True)]


def iterate_file(path: Path, record_type: type[Record]) -> Iterator[Record]:
    """The records of a Parquet file, some at a time: as Python numbers they take ten times the memory."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=BATCH):
            yield from from_table(pa.Table.from_batches([batch]), record_type)


def schema_of(record_type: type) -> pa.Schema:
    """The Arrow schema of a record type, from its annotations."""
    hints = typing.get_type_hints(record_type)
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in hints.items()])


def readable(record: Any) -> dict[str, Any]:
    """A record as JSON for the eye: without token ids, log-probabilities, neuron ids and hidden states."""
    hidden = {"prompt_ids", "completion_ids", "token_log_probs", "overlap_set", "state"}
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: _plain(value) for name, value in values.items() if name not in hidden}


def _arrow_type(hint: Any) -> pa.DataType:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _arrow_type(next(argument for argument in arguments if argument is not type(None)))
    if origin is tuple:
        # Long lists of numbers: 32 bits are enough for token ids, neuron ids and log-probabilities.
        item = {int: pa.int32(), float: pa.float32()}.get(arguments[0]) or _arrow_type(arguments[0])
        return pa.list_(item)
    if origin is np.ndarray or hint is np.ndarray:
        return pa.list_(pa.int32())
    if dataclasses.is_dataclass(hint):
        return pa.struct(list(schema_of(typing.cast(type, hint))))
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[hint]


def _python_column(column: pa.ChunkedArray, hint: Any) -> Iterable[Any]:
    if typing.get_origin(hint) is np.ndarray:
        return [scalar.values.to_numpy(zero_copy_only=False) for scalar in column]
    return column.to_pylist()


def _restore(value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(inner):
            hints = typing.get_type_hints(inner)
            cls = typing.cast(Any, inner)
            return tuple(cls(**{key: _restore(item[key], hints[key]) for key in hints}) for item in value)
        return tuple(value)
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return [_plain(item) for item in value]
    return value  # of a tuple of numbers, which may be thousands, none is touched
