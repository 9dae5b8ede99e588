"""Reading an answer out of a reply. No model, no gold answer, no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.text.answers import LETTERS, NUMBER, normalise_answer, spelled
from neuron_opsd.text.expressions import expression, last_boxed
from neuron_opsd.text.thinking import strip_thinking

# What a model writes before the answer it settles on; the LAST such place wins, since reasoning may name others first.
_CUE = r"(?:final answer|correct answer|correct option|answer|option)\s*(?:is|:|=)\s*(?:is\s*)?(?:option\s*)?"
_LETTER = r"[\(\[\{*_\s\"'$]*([A-Z])(?![A-Za-z'])[\)\]\}*_\s\"'$.:]*"
_CUED_LETTER = re.compile(rf"(?i:{_CUE}){_LETTER}")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LEADING_LETTER = re.compile(r"^[\(\[*_\s\"']*([A-Z])(?:[\)\]*_\"']*(?:[.:,)]|\s*$|\s*\n)|\s+-\s)")
_CUED_TEXT = re.compile(rf"(?i:{_CUE})(.+)")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from a reply, and by which pattern; or why nothing was."""

    answer: str | None
    kind: str


def read_answer(
    reply: str,
    *,
    choices: Sequence[str],
    answer_format: str = "reasoned",
    is_finished: bool = True,
    pattern: str | None = None,
) -> Reading:
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
        return Reading(None, "empty")
    kind = "pattern"
    if pattern is not None:
        matches = list(re.finditer(pattern, reply))
        if not matches:
            return Reading(None, "no match of prompts.answer_pattern")
        reply, answer_format, kind = (matches[-1][1] or "").strip(), "free", "prompts.answer_pattern"
    answer = (
        _extract_choice(reply, choices, answer_format) if choices else _extract_free(reply, answer_format)
    )
    return Reading(answer, kind if answer is not None else "no answer")


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
        if any(f" {form(choice)} " in f" {form(text)} " for form in (normalise_answer, spelled))
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
        numbers = NUMBER.findall(reply)
        found = last_boxed(reply) or (cued or numbers or [""])[-1]
        return _canonical_expression(found)
    if boxed:
        return normalise_answer(boxed[-1]) or None
    if cued:
        return normalise_answer(cued[-1]) or None
    if answer_format != "reasoned":
        return normalise_answer(reply.splitlines()[0]) or None
    numbers = NUMBER.findall(reply)
    return normalise_answer(numbers[-1]) if numbers else None


def _canonical_expression(text: str) -> str | None:
    plain = normalise_answer(text)
    return plain if NUMBER.fullmatch(plain) else expression(text)
