"""`neuron-opsd read-answer`: what the reader makes of replies, one a line. No model, no torch."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from neuron_opsd.config import PromptSettings
from neuron_opsd.errors import DataError
from neuron_opsd.text.reading import Reading
from neuron_opsd.text.replies import read_reply


def read_lines(
    lines: Iterable[str], *, choices: Sequence[str], prompts: PromptSettings
) -> Iterator[tuple[str, Reading]]:
    """Each reply with its reading.

    Args:
        lines: A reply each, or a JSON object with `reply` and, where wanted, `choices` and `finish_reason`.
        choices: The choices as they were shown, for lines that bring none.
        prompts: How the answer was asked for, and the user's own pattern.

    Raises:
        DataError: a JSON object of another shape. Names the line.
    """
    for number, line in enumerate(lines, start=1):
        row = _parse(line.rstrip("\r\n"), number)
        shown = row.get("choices", choices)
        reading = read_reply(
            row["reply"],
            choices=shown,
            choice_order=range(len(shown)),
            prompts=prompts,
            finish_reason=row.get("finish_reason", "stop"),
        )
        yield row["reply"], reading


def _parse(line: str, number: int) -> dict[str, Any]:
    """A line as a row. A reply may itself be JSON, so only an object with `reply` is one."""
    try:
        row = json.loads(line)
    except ValueError:
        return {"reply": line}
    if not isinstance(row, dict) or "reply" not in row:
        return {"reply": line}
    row = {name: row[name] for name in ("reply", "choices", "finish_reason") if row.get(name) is not None}
    choices = row.get("choices", [])
    is_right = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not isinstance(row.get("reply"), str):
        raise DataError(f"Line {number}: `reply` must be text.")
    if not is_right:
        raise DataError(f"Line {number}: `choices` must be a list of texts.")
    if row.get("finish_reason", "stop") not in ("stop", "length"):
        raise DataError(
            f"Line {number}: `finish_reason` is {row['finish_reason']!r}. It must be stop (the model ended the reply) "
            "or length (it was cut)."
        )
    return row
