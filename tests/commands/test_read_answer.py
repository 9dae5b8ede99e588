"""`neuron-opsd read-answer`, and users' own patterns: what they read, and what is refused at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_opsd import cli
from neuron_opsd.config import check_prompts
from neuron_opsd.errors import ConfigError
from neuron_opsd.text import answer_pattern
from neuron_opsd.text.answer_pattern import check_pattern

CHOICES = ["--choices", "insulin", "--choices", "glucagon", "--choices", "cortisol"]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    def call(text: str, *options: str, status: int = 0) -> str:
        replies = tmp_path / "replies"
        replies.write_text(text, encoding="utf-8")
        with replies.open(encoding="utf-8") as file:
            monkeypatch.setattr(sys, "stdin", file)
            monkeypatch.setattr(sys, "argv", ["neuron-opsd", "read-answer", *options])
            with pytest.raises(SystemExit) as stop:
                cli.main()
        assert (stop.value.code or 0) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    return call


def test_a_line_is_a_reply_or_a_row(read) -> None:
    rows = [
        "The answer is B.",
        json.dumps({"reply": "Both.\nThe answer is D", "choices": list("wxyz")}),
        "",
    ]
    lines = read("\n".join(rows) + "\n", *CHOICES).splitlines()
    assert [line.split("\t")[0] for line in lines] == ["B", "D", "-"]
    assert lines[1].endswith("\tBoth. The answer is D")
    assert all(len(line.split("\t")) == 3 for line in lines)  # each has its kind


def test_without_choices_the_answer_is_a_text(read) -> None:
    assert read("The answer is 42.\n").split("\t")[0] == "42"


def test_ones_own_pattern_reads_alone(read) -> None:
    lines = read(
        "The answer is A. Final: C\nThe answer is A.\n", *CHOICES, "--pattern", "Final: ([A-C])"
    ).splitlines()
    assert [line.split("\t")[0] for line in lines] == ["C", "-"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"reply": 3}, "Line 2: `reply` must be text"),
        ({"reply": "x", "choices": "AB"}, "Line 2: `choices` must be a list"),
        ({"reply": "x", "finish_reason": "eos"}, "Line 2: `finish_reason` is 'eos'. It must be stop"),
    ],
)
def test_rows_of_another_shape_are_named(line: dict, expected: str, read) -> None:
    assert expected in read("fine\n" + json.dumps(line) + "\n", *CHOICES, status=2)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("Final: ([A-D]", "not a regular expression"),
        ("Final: [A-D]", "0 groups"),
        ("(Final|Answer): ([A-D])", "2 groups"),
    ],
)
def test_patterns_are_checked_as_settings(pattern: str, expected: str, read) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.answer_pattern is .*" + expected):
        check_prompts({"answer_pattern": pattern})
    assert expected in read("x\n", *CHOICES, "--pattern", pattern, status=2)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:\w+\s?)+([A-D])$",
        ".*.*.*([A-D])",
        *(pytest.param(pattern, marks=pytest.mark.slow) for pattern in ("(?:a+)+(b)", r"(?:x|x)*([A-D])\d")),
    ],
)
def test_slow_patterns_are_refused(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these takes hours."""
    monkeypatch.setattr(answer_pattern, "TRIAL_SECONDS", 1)
    with pytest.raises(ConfigError, match=r"over 1 seconds"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["Final: ([A-D])", r".*answer is \(?([A-D])", "\x00([A-Z])", "答案[:：]([A-D])"]
)
def test_plain_patterns_pass(pattern: str) -> None:
    check_pattern(pattern)


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from neuron_opsd import cli; sys.argv = ['neuron-opsd', 'read-answer', '--pattern', '([A-D])']\n"
        "try: cli.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], input=b"A\n", check=True, capture_output=True)


def test_a_password_that_is_a_word_of_a_reply_stays(read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres")
    shown = read("The answer is postgres\n")
    assert "The answer is postgres" in shown
    assert "[secret]" not in shown
