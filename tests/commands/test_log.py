"""The log of a command that writes to no terminal."""

import logging
import re

import pytest

from neuron_opsd import cli
from neuron_opsd.cli_print import log_handler
from neuron_opsd.config.graph import COMMANDS, STAGE_NAMES

DATED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S.*\S")


def test_lines_are_whole_and_dated_and_each_fact_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    handler = log_handler()  # of the command: it writes to what is standard error now
    for text in [
        "questions.max_test: kept %d of 10923 questions " + "of a long name" * 20,
        "neurons: done",
    ] * 2:
        handler.handle(
            logging.LogRecord("a", logging.INFO, "f", 1, text, (80,) if "%d" in text else (), None)
        )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(DATED.fullmatch(line) for line in lines)
    assert lines[0].endswith("of a long name" * 20)


@pytest.mark.parametrize("name", [*COMMANDS, *STAGE_NAMES])
def test_until_takes_a_stage_and_its_command(name: str) -> None:
    assert cli._stop_after(name) in COMMANDS
