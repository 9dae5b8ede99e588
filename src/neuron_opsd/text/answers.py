"""Reading an answer out of a reply, comparing answers, and voting. No model, no gold answer, no torch.

An answer is canonical: a letter of the ORIGINAL choice order for multiple choice (A is `choices[0]`), normalised text
a number or an expression between dollar signs for free-form questions, and None where nothing could be read.
"""

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.text.expressions import expression, is_expression, is_installed, last_boxed, same_expression
from neuron_opsd.text.thinking import strip_thinking

LETTERS = string.ascii_uppercase

# What a model writes before the answer it settles on; the LAST such place wins, since reasoning may name others first.
_CUE = r"(?:final answer|correct answer|correct option|answer|option)\s*(?:is|:|=)\s*(?:is\s*)?(?:option\s*)?"
_LETTER = r"[\(\[\{*_\s\"'$]*([A-Z])(?![A-Za-z'])[\)\]\}*_\s\"'$.:]*"
_CUED_LETTER = re.compile(rf"(?i:{_CUE}){_LETTER}")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LEADING_LETTER = re.compile(r"^[\(\[*_\s\"']*([A-Z])(?:[\)\]*_\"']*(?:[.:,)]|\s*$|\s*\n)|\s+-\s)")
_CUED_TEXT = re.compile(rf"(?i:{_CUE})(.+)")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+")
_QUANTITY = re.compile(rf"({_NUMBER.pattern})\s*([^\d\s][^\d]*)")


@dataclass(frozen=True, slots=True)
class Vote:
    """The plurality answer of a group, how many gave it, and the size of the group."""

    answer: str | None
    votes: int
    total: int

    @property
    def share(self) -> float:
        """Votes / total, in [0, 1]; 0 for an empty group."""
        return self.votes / self.total if self.total else 0.0


def extract_answer(reply: str, *, choices: Sequence[str], answer_format: str = "reasoned") -> str | None:
    r"""Read the answer from a reply to a question that showed `choices` in this order.

    Multiple choice: in this order, the last `\boxed{X}`, the last "answer is X", a leading letter ("B.", "(B)"), then
    the one choice whose text the reply gives; before all of them, for `choice_text`, a first line that is a choice's
    text. Free-form: boxed, then the text after the last "answer is", then (only when asked for the answer alone) the
    whole reply, and in reasoned replies the last number; for `math`, the first two are kept as expressions.

    Returns:
        A letter of the order shown, normalised text, or None. A letter beyond the choices is None, never clipped.
    """
    reply = strip_thinking(reply).strip()
    if not reply:
        return None
    return _extract_choice(reply, choices, answer_format) if choices else _extract_free(reply, answer_format)


def _extract_choice(reply: str, choices: Sequence[str], answer_format: str) -> str | None:
    if answer_format == "choice_text":  # no letters were shown: "C. difficile" is a text
        said = normalise_answer(reply.splitlines()[0].removeprefix("- "))
        same = [
            letter
            for letter, choice in zip(LETTERS, choices, strict=False)
            if normalise_answer(choice) == said
        ]
        if len(same) == 1:
            return same[0]
    boxed = _BOXED.findall(reply)
    if boxed:
        inner = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", boxed[-1]).strip()
        letter = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", inner)
        return _valid(letter[1].upper(), choices) if letter else _match_choice_text(inner, choices)
    cued = _CUED_LETTER.findall(reply)
    if cued:
        return _valid(cued[-1], choices)
    leading = _LEADING_LETTER.match(reply)
    if leading:
        return _valid(leading[1], choices)
    cued_text = _CUED_TEXT.findall(reply)
    return (_match_choice_text(cued_text[-1], choices) if cued_text else None) or _match_choice_text(
        reply, choices
    )


def _valid(letter: str, choices: Sequence[str]) -> str | None:
    return letter if LETTERS.index(letter) < len(choices) else None


def _match_choice_text(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one choice that the text is or contains; of nested choices the longest; else None."""
    found = [
        i
        for i, choice in enumerate(choices)
        if any(f" {form(choice)} " in f" {form(text)} " for form in (normalise_answer, _spelled))
    ]
    longest = max(found, key=lambda i: len(choices[i]), default=None)
    if longest is None or any(
        normalise_answer(choices[i]) not in normalise_answer(choices[longest]) for i in found
    ):
        return None
    return LETTERS[longest] if longest < len(LETTERS) else None


def _extract_free(reply: str, answer_format: str) -> str | None:
    boxed, cued = _BOXED.findall(reply), _CUED_TEXT.findall(reply)
    if answer_format == "math":
        numbers = _NUMBER.findall(reply)
        found = last_boxed(reply) or (cued or numbers or [""])[-1]
        return _canonical_expression(found)
    if boxed:
        return normalise_answer(boxed[-1]) or None
    if cued:
        return normalise_answer(cued[-1]) or None
    if answer_format != "reasoned":
        return normalise_answer(reply.splitlines()[0]) or None
    numbers = _NUMBER.findall(reply)
    return normalise_answer(numbers[-1]) if numbers else None


def _canonical_expression(text: str) -> str | None:
    plain = normalise_answer(text)
    return plain if _NUMBER.fullmatch(plain) else expression(text)


def normalise_answer(text: str) -> str:
    """Canonical form of free text: a lone number as a number, else lower case without articles and punctuation."""
    words = _spelled(text).split()
    articles = {"a", "an", "the"}  # except at the end: "Vitamin A" is not "Vitamin"
    return " ".join(word for i, word in enumerate(words) if word not in articles or i == len(words) - 1)


def _spelled(text: str) -> str:
    """`normalise_answer` with its articles."""
    text = unicodedata.normalize("NFKC", text).strip().strip("$").strip()
    number = re.fullmatch(r"[$€£]?\s*([-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+)\s*[%.]?", text)
    if number:
        return _format_number(number[1])
    text = re.sub(r"[^\w\s.+\-/^=<>°%]|_", " ", text.lower())
    return " ".join(re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text).split())


def _format_number(text: str) -> str:
    value = text.replace(",", "").lstrip("+")
    if "." in value:
        value = value.rstrip("0").rstrip(".") or "0"
    sign, digits = ("-", value[1:]) if value.startswith("-") else ("", value)
    digits = digits.lstrip("0") or "0"
    return (sign if digits != "0" else "") + ("0" + digits if digits.startswith(".") else digits)


def map_answer_back(answer: str | None, choice_order: Sequence[int]) -> str | None:
    """A letter of the order shown -> the letter of the original order. Free-form answers pass unchanged."""
    return LETTERS[choice_order[LETTERS.index(answer)]] if answer and choice_order else answer


def answers_match(first: str | None, second: str | None) -> bool:
    """Whether two canonical answers are the same; None matches nothing, not even None.

    "9 apples" matches "9": where one side is a bare number, the other's only number decides. "1.50 m" matches "1.5 m",
    and not "1.5 km". Expressions match where math-verify says so; beside an answer that is none, also by their text.
    """
    if first is None or second is None:
        return False
    if first == second:
        return True
    marked = [is_expression(answer) for answer in (first, second)]
    if any(marked):
        has_same_text = not all(marked) and normalise_answer(first) == normalise_answer(second)
        can_compare = all(marked) or is_installed()
        return has_same_text or (can_compare and same_expression(*sorted((first, second))))
    one, other = _quantity(first), _quantity(second)
    if one and other:
        return one == other
    numbers = [_NUMBER.findall(answer) for answer in (first, second)]
    is_bare = [_NUMBER.fullmatch(answer) is not None for answer in (first, second)]
    if not any(is_bare) or any(len(found) != 1 for found in numbers):
        return False
    return _format_number(numbers[0][0]) == _format_number(numbers[1][0])


def _quantity(answer: str) -> tuple[str, str] | None:
    """The number and the unit of an answer that is both; "1 000 km" is what the normal form leaves of "1,000 km"."""
    found = _QUANTITY.fullmatch(re.sub(r"(?<=\d) (?=\d{3}\b)", "", answer))
    return (_format_number(found[1]), found[2].strip()) if found else None


def unify_answers(answers: Sequence[str | None]) -> tuple[str | None, ...]:
    """Replace each answer by the first one equivalent to it, so that equal strings are equal answers.

    The gold answer has no part in this: it could merge two answers that only match it, and so win votes.
    """
    known: list[str] = []
    unified: list[str | None] = []
    for answer in answers:
        same = next((other for other in known if answers_match(answer, other)), None)
        if answer is not None and same is None:
            known.append(answer)
            same = answer
        unified.append(same)
    return tuple(unified)


def majority_answer(answers: Sequence[str | None], *, skip_unparsable: bool) -> Vote:
    """The plurality answer, equivalent ones counted together; of tied answers the one given first.

    Args:
        answers: One canonical answer for each rollout, in rollout order.
        skip_unparsable: True for pseudo-labels (None never wins, though it stays in the total); False for
            evaluation (None is an answer like any other, and wrong if it wins).
    """
    counts: dict[str | None, int] = {}
    for answer in unify_answers(answers):
        if answer is not None or not skip_unparsable:
            counts[answer] = counts.get(answer, 0) + 1
    if not counts:
        return Vote(None, 0, len(answers))
    winner = max(
        counts, key=counts.__getitem__
    )  # dicts keep insertion order and max keeps the first: earliest wins
    return Vote(winner, counts[winner], len(answers))
