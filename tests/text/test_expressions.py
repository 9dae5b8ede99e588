"""Mathematical expressions: read out of replies, grouped by math-verify, refused in words where it is missing."""

import pytest

from neuron_opsd.errors import ConfigError
from neuron_opsd.text import answers as answers_module
from neuron_opsd.text import expressions
from neuron_opsd.text.answers import answers_match, majority_answer
from neuron_opsd.text.expressions import looks_like_expression
from neuron_opsd.text.reading import read_answer


def read(reply: str) -> str | None:
    return read_answer(reply, choices=(), answer_format="math").answer


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (r"So the answer is \boxed{\frac{\sqrt{2}}{2}}.", r"$\frac{\sqrt{2}}{2}$"),
        (r"First \boxed{1}, then \boxed{x^2}", "$x^2$"),
        ("The answer is $2x + 1$.", "$2x + 1$"),
        ("The answer is 1,000.", "1000"),
        ("It must be 12 or 13", "13"),
        (r"cut in the middle: \boxed{\frac{1}{2", "2"),
        ("no idea", None),
    ],
)
def test_an_expression_is_read(reply: str, expected: str | None) -> None:
    assert read(reply) == expected


def test_choices_are_read_as_ever() -> None:
    assert read_answer("The answer is B", choices=("x", "y"), answer_format="math").answer == "B"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(r"\frac12", True), ("x^2", True), ("$3$", True), ("1/2", False), ("it costs $3", False)],
)
def test_what_looks_like_an_expression(text: str, expected: bool) -> None:
    assert looks_like_expression(text) is expected


needs_it = pytest.mark.skipif(not expressions.is_installed(), reason="math-verify is not installed")


@needs_it
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (r"$\frac{1}{2}$", "$0.5$", True),
        (r"$\frac{1}{2}$", "0.5", True),
        ("$x^2 + 2x + 1$", "$(x+1)^2$", True),
        ("$x(y+1)$", "$x y + 1$", False),
        ("$2x$", "$3x$", False),
        (r"$\frac{1}{2}$", "frac 1 2", True),  # the same text, read without its marks
        (r"$\frac{1}{2}$", None, False),
    ],
)
def test_expressions_match_where_they_are_equal(first: str, second: str | None, expected: bool) -> None:
    assert answers_match(first, second) is expected
    assert answers_match(second, first) is expected


@needs_it
def test_equal_expressions_vote_together() -> None:
    vote = majority_answer(["$3$", r"$\frac{1}{2}$", None, "$0.5$", "$2^{-1}$"], skip_unparsable=True)
    assert (vote.answer, vote.votes, vote.total) == (r"$\frac{1}{2}$", 3, 5)


def test_without_math_verify_the_next_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "is_installed", lambda: False)
    monkeypatch.setattr(answers_module, "is_installed", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install neuron-opsd\[math\]"):
        answers_match("$x+y$", "$y+x$")
    assert answers_match("$x$", "x")  # gold answers in LaTeX beside plain ones need none
    assert not answers_match(r"$\frac{1}{3}$", "7")
