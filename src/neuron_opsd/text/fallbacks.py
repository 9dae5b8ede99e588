"""What is read where a reply states no answer: a line that is nothing but an option, or the one choice that it names.

Only for replies that ended by themselves, or were asked for the letter or the text alone.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.choices import (
    NOTHING,
    REFUSED,
    SEVERAL,
    Named,
    choices_said,
    mentions,
    name_at_start,
    name_within,
)

SHORT = 400  # characters of a reply that is searched whole for the text of a choice

_OPTION_LINE = re.compile(r"[\W_]{0,6}([A-Z])(?:[.):]|\s?[-–—]\s)")
_LEADING = re.compile(
    r"[\W_]{0,6}(?:[A-Z][)\]\"']{0,3}(?:[.:,;)\]]|\s[-–—(|]|[–—(|])|(?:option |answer |"
    r"choice )?[A-Z][)\]\"']{0,3},?\s(?:because|since|as|due|weil|porque|parce)\b)",
    re.IGNORECASE,
)
_CANNOT_SAY = re.compile(
    r"\b(?:(?:do not|don't|cannot|can't|could not|couldn't|am not able to|unable to) (?:know|determine|tell|"
    r"say|answer|decide|choose|help|"
    r"provide|assist)|not sure|cannot be determined|can't be determined|impossible to (?:say|tell|know)|"
    r"not enough information|as an ai)\b",
    re.IGNORECASE,
)


_BEGINS_TO_REASON = re.compile(
    r"\W{0,6}(?:first(?:ly)?|let(?:'s| us| me)|to (?:help (?:me |us |you )?)?(?:answer|solve|determine|find|"
    r"see|choose|decide|identify)|"
    r"we (?:need|are asked|have to|must)|"
    r"step 1|assum\w+|suppos\w+|consider\w*|when)\b|.{0,400}?\b(?:if|supposing|assuming)\b",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\W{0,6}(?:so|therefore|thus|hence|consequently|accordingly|in conclusion|in summary|overall|finally|"
    r"this means|which means)\b",
    re.IGNORECASE,
)


_MIXED = re.compile(r"\b(?:and|or|both|either|neither|partly)\b", re.IGNORECASE)
_FIRST_CLAUSE = re.compile(r"([^.,!?\n]{1,80})(?:[.!](?:\s|$)|,\s(?:as|because|since)\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fallback:
    """One way to read a reply that states no answer."""

    name: str
    read: Callable[
        [str, Sequence[str], bool], Named
    ]  # of the reply, the choices, and whether letters were shown
    example: str


def _alone_first(text: str, choices: Sequence[str], by_letter: bool) -> Named:
    """The first line is an option and nothing else, and the lines after it do not go on with the next option."""
    first, _, rest = text.partition("\n")
    if not rest:
        first = re.sub(r"^\W{0,3}1[.)] ", "", first)  # a list of one
    named = _alone(first, choices, by_letter)
    if named.letter is None or not rest:
        return named
    if _is_letter(first) and any(
        _is_letter(line) and _alone(line, choices, by_letter).letter != named.letter
        for line in rest.split("\n")[:40]
    ):
        return Named(None, SEVERAL)
    is_heading = re.match(r"[\W_]{0,6}(?:option|choice|statement)\b", first, re.IGNORECASE) is not None
    return Named(None, NOTHING) if is_heading or _is_listed(named.letter, first, rest, choices) else named


def _is_listed(letter: str, first: str, rest: str, choices: Sequence[str]) -> bool:
    """Whether the first line begins a list of the options, by letter or by text."""
    options = [m[1] for line in rest.split("\n")[:40] if (m := _OPTION_LINE.match(line))]
    if options:
        return options[0] == chr(ord(letter) + 1) or (
            first.startswith(letter) and len(options) + 1 == len(choices) and letter == "A"
        )
    return any(_alone(line, choices, False).letter not in (None, letter) for line in rest.split("\n")[:8])


def _alone_last(text: str, choices: Sequence[str], by_letter: bool) -> Named:
    """The last line is an option and nothing else, and the line before it is no other option."""
    before, _, last = text.rpartition("\n")
    named = _alone(last, choices, by_letter)
    previous = before.rpartition("\n")[2]
    if _is_letter(last) and not _is_letter(previous):
        return named
    is_option = (
        _OPTION_LINE.match(previous) is not None or _alone(previous, choices, by_letter).letter is not None
    )
    return Named(None, NOTHING) if named.letter and is_option else named


def _is_letter(line: str) -> bool:
    return re.fullmatch(r"[\W_]{0,6}[A-Z][\W_]{0,6}", line) is not None


def _alone(line: str, choices: Sequence[str], by_letter: bool) -> Named:
    named = name_at_start(line[:300], choices, by_letter=by_letter)
    is_option = named.is_last or (named.letter is None and len(line) < 40)
    return named if is_option else Named(None, NOTHING)


def _leading_letter(text: str, choices: Sequence[str], by_letter: bool) -> Named:
    """A letter, and then reasons that name no other choice."""
    if not by_letter or not _LEADING.match(text):
        return Named(None, NOTHING)
    named = name_at_start(text[:SHORT], choices)
    if named.letter is None:
        return named
    is_list = lists_after(named.letter, text[:SHORT])
    others = choices_said(text[:SHORT], choices) - {LETTERS.index(named.letter)}
    return Named(None, NOTHING) if is_list or others else named


def lists_after(letter: str, text: str) -> bool:
    """Whether the text goes on with the option after this one, as in a list of them."""
    return re.search(rf"(?:^|[\n.;,] ?)\(?{chr(ord(letter) + 1)}[.):]\s", text) is not None


def _leading_text(text: str, choices: Sequence[str], by_letter: bool) -> Named:
    """A choice's text, a mark, and then reasons that name no other choice."""
    named = name_at_start(text[:SHORT], choices, by_letter=False)
    if named.letter is None or choices_said(text[:SHORT], choices) - {LETTERS.index(named.letter)}:
        return Named(None, named.why_not or SEVERAL)
    return named


def _named_in_short(text: str, choices: Sequence[str], by_letter: bool) -> Named:
    """The one choice that a short reply names."""
    if len(text) > SHORT or _BEGINS_TO_REASON.match(text):
        return Named(None, NOTHING)
    return Named(None, REFUSED) if _CANNOT_SAY.search(text) else name_within(text, choices)


def _first_said(text: str, choices: Sequence[str], by_letter: bool) -> Named:
    """The choice that the first clause ends with, whole or before its reasons, if no other is named after it."""
    clause = _FIRST_CLAUSE.match(text)
    if (
        clause is None
        or _BEGINS_TO_REASON.match(text)
        or _CANNOT_SAY.search(text)
        or _MIXED.search(clause[1])
    ):
        return Named(None, NOTHING)
    named = name_within(clause[1], choices)
    is_last_word = any(mention.end >= len(clause[1].rstrip()) for mention in mentions(clause[1], choices))
    if named.letter is None or not is_last_word:
        return Named(None, named.why_not or NOTHING)
    others = choices_said(text[:SHORT], choices) - {LETTERS.index(named.letter)}
    return Named(None, SEVERAL) if others else named


def _named_last(text: str, choices: Sequence[str], by_letter: bool) -> Named:
    """The one choice that the last sentence of a long reply concludes with, or ends with."""
    if len(text) <= SHORT:
        return Named(None, NOTHING)
    last = re.split(r"(?<=[a-z)\"'][.!?])\s", text.rpartition("\n")[2][-SHORT:])[-1]
    if _CANNOT_SAY.search(last):
        return Named(None, REFUSED)
    named = name_within(last, choices)
    ends = [mention.end for mention in mentions(last, choices)][-1:]
    is_last_word = bool(ends) and re.search(r"\w", last[ends[0] :]) is None
    return named if _CONCLUDES.match(last) or is_last_word else Named(None, NOTHING)


FALLBACKS: tuple[Fallback, ...] = (
    Fallback("first line alone", _alone_first, "C\n\nCortisol is a steroid hormone."),
    Fallback("last line alone", _alone_last, "It is made by the adrenal cortex.\n\n**C. cortisol**"),
    Fallback("leading letter", _leading_letter, "C, because it is a steroid."),
    Fallback("leading text", _leading_text, "Cortisol, because it is a steroid."),
    Fallback("text in a short reply", _named_in_short, "The only steroid here is cortisol, unlike insulin."),
    Fallback(
        "text in the last sentence",
        _named_last,
        "Insulin and glucagon are peptides of the pancreas. " * 10 + "So the steroid among them is cortisol.",
    ),
)
# Those that look at how the reply begins.
FIRST_WORDS = frozenset({"first line alone", "leading letter", "leading text"})
# Of a reply that was cut: its first words, or a first sentence that is whole.
IN_CUT = (
    *(row for row in FALLBACKS if row.name in FIRST_WORDS),
    Fallback("first sentence", _first_said, "The steroid here is cortisol. It is made by"),
)
