"""Comparing answers and voting. `reading.py` reads them out of replies. No model, no gold answer, no torch.

An answer is canonical: a letter of the ORIGINAL choice order for multiple choice (A is `choices[0]`), normalised text
a number or an expression between dollar signs for free-form questions, and None where nothing could be read.
"""

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.text.expressions import is_expression, is_installed, same_expression

LETTERS = string.ascii_uppercase

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+")
_QUANTITY = re.compile(rf"({NUMBER.pattern})\s*([^\d\s][^\d]*)")


@dataclass(frozen=True, slots=True)
class Vote:
    """The plurality answer of a group, how many gave it, and the size of the group."""

    answer: str | None
    votes: int
    total: int

    @property
    def share(self) -> float:
        """Votes / total, in [0, 1], 0 for an empty group."""
        return self.votes / self.total if self.total else 0.0


def normalise_answer(text: str) -> str:
    """Canonical form of free text: a lone number as a number, else lower case without articles and punctuation."""
    words = spelled(text).split()
    articles = {"a", "an", "the"}  # except at the end: "Vitamin A" is not "Vitamin"
    return " ".join(word for i, word in enumerate(words) if word not in articles or i == len(words) - 1)


def spelled(text: str) -> str:
    """`normalise_answer` with its articles."""
    text = unicodedata.normalize("NFKC", text).strip().strip("$").strip()
    number = re.fullmatch(r"[$€£]?\s*([-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+)\s*[%.]?", text)
    if number:
        return number_form(number[1])
    text = re.sub(r"[^\w\s.+\-/^=<>°%]|_", " ", text.lower())
    return " ".join(re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text).split())


def number_form(text: str) -> str:
    """A number's canonical digits: no commas, no plus, no zeros that say nothing."""
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
    """Whether two canonical answers are the same. None matches nothing, not even None.

    "9 apples" matches "9": where one side is a bare number, the other's only number decides. "1.50 m" matches "1.5 m",
    and not "1.5 km". Expressions match where math-verify says so. Beside any other answer, texts match too.
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
    numbers = [NUMBER.findall(answer) for answer in (first, second)]
    is_bare = [NUMBER.fullmatch(answer) is not None for answer in (first, second)]
    if not any(is_bare) or any(len(found) != 1 for found in numbers):
        return False
    return number_form(numbers[0][0]) == number_form(numbers[1][0])


def _quantity(answer: str) -> tuple[str, str] | None:
    """The number and the unit of an answer that is both. "1 000 km" is what the normal form leaves of "1,000 km"."""
    found = _QUANTITY.fullmatch(re.sub(r"(?<=\d) (?=\d{3}\b)", "", answer))
    return (number_form(found[1]), found[2].strip()) if found else None


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
    """The plurality answer, equivalent ones counted together. Of tied answers the one given first.

    Args:
        answers: One canonical answer for each rollout, in rollout order.
        skip_unparsable: True for pseudo-labels (None never wins, though it stays in the total), False for
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
