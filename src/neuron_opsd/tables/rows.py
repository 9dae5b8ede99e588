"""A table in memory, and the rule for its bad rows: few are left out with their reasons, many stop the run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from neuron_opsd.errors import DataError

logger = logging.getLogger(__name__)

NUM_SHOWN = 10  # bad rows named in a notice


class Row(NamedTuple):
    """One row: where it stands ("file.jsonl:7"), its cells by column, and why it could not be read, if so."""

    where: str
    values: dict[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file, without the columns that its reader must not see. `columns` names those too."""

    path: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    is_typed: bool = True  # False in CSV, where a number and its text look alike


class BadRowError(Exception):
    """What is wrong with one row. Whoever reads the table adds where, and counts it."""


class LeftOut(NamedTuple):
    """A row that is left out, and why."""

    where: str
    reason: str


def check_bad_rows(
    path: str, bad: Sequence[LeftOut], num_rows: int, *, max_fraction: float, hint: str = ""
) -> None:
    """Name the rows that are left out.

    Raises:
        DataError: they are more than `max_fraction` of all rows. The first ones and their reasons are named.
    """
    if not bad:
        return
    lines = [f"{row.where} {row.reason}" for row in bad[:NUM_SHOWN]]
    if len(bad) > max_fraction * num_rows:
        if len(bad) == num_rows == 1:
            raise DataError(lines[0] + hint)
        raise DataError(
            "\n".join(lines[:3])
            + f"\n{len(bad):,} of the {num_rows:,} rows of {path} cannot be read ({len(bad) / num_rows:.1%}). At most "
            f"{max_fraction:.1%} may be left out. "
            + (hint.strip() or "Fix them, or raise questions.max_bad_fraction.")
        )
    more = [f"... and {len(bad) - NUM_SHOWN:,} more"] if len(bad) > NUM_SHOWN else []
    logger.warning(
        "%s: left out %d of %d rows, which cannot be read:\n%s",
        path,
        len(bad),
        num_rows,
        "\n".join(f"  {line}" for line in [*lines, *more]),
    )


def show(value: Any, limit: int = 60) -> str:
    """A value as a message shows it: printable, and not too long."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
