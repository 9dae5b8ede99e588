"""Reading a free-form answer: what stands in a box or after "the answer is", or else the last number. No model."""

import re

from neuron_opsd.text.answers import NUMBER, normalise_answer
from neuron_opsd.text.choices import NOTHING, REFUSED, says_nothing
from neuron_opsd.text.cleaning import plain, without_markup
from neuron_opsd.text.expressions import expression
from neuron_opsd.text.fallbacks import SHORT
from neuron_opsd.text.statements import Statement, certainty_of, first_sentence, statements_of

CUT = "cut"


def read_free(reply: str, answer_format: str, *, is_whole: bool) -> tuple[str | None, str]:
    """The answer, normalised text or an expression, and the name of the pattern, or why there is none."""
    text = without_markup(reply)
    statements = statements_of(text)
    stated = [
        (statement, answer)
        for statement in statements
        if statement.pattern.in_free_form and certainty_of(text, statement) != "no"
        if (answer := _free_answer(statement, answer_format))
    ]
    # A box outlives a later "the answer is" in its discussion, but not a later "Answer:".
    marked = [each for each in stated if each[0].pattern.name == "boxed" or _is_label(each[0])]
    has_box = any(statement.pattern.name == "boxed" for statement, _ in stated)
    if stated:
        statement, answer = (marked if has_box else stated)[-1]
        return answer, statement.pattern.name
    if any(says_nothing(statement.piece) for statement in statements if statement.pattern.in_free_form):
        return None, REFUSED
    if not is_whole:
        return None, CUT
    if answer_format not in ("reasoned", "math"):
        answer = normalise_answer(text.splitlines()[0])
        return answer or None, "first line" if answer else NOTHING
    last = text if len(text) <= SHORT else text.rpartition("\n")[2]
    numbers = re.findall(rf"(?:{NUMBER.pattern})(?![\d,.]{{0,12}}-\w)", last)  # no "150-degree oven"
    return (normalise_answer(numbers[-1]), "last number") if numbers else (None, NOTHING)


def _is_label(statement: Statement) -> bool:
    is_label = statement.pattern.name in ("heading", "tag") or statement.cue.rstrip().endswith(":")
    return is_label and "answer" in statement.cue


def _free_answer(statement: Statement, answer_format: str) -> str | None:
    piece = statement.piece
    if statement.pattern.name != "boxed":
        piece = first_sentence(piece).strip(" \n:=\"'|").rstrip(".!;").rstrip(" \"'}|")
        if says_nothing(piece):
            return None
    return canonical(piece, answer_format)


def canonical(text: str, answer_format: str) -> str | None:
    """Normalised text, or for `math` a number or an expression. None for nothing."""
    number_or_text = normalise_answer(text if answer_format == "math" else plain(text))
    if answer_format != "math" or NUMBER.fullmatch(number_or_text):
        return number_or_text or None
    return expression(text)
