r"""Reading an answer out of a reply: in which order its forms are looked for. No model, no gold answer, no torch.

1. Thinking and the turns that the model wrote for the user are taken away.
2. The last statement of an answer wins (`patterns.py`: "The answer is C", `\boxed{C}`), or else what the reply says
   without contradiction ("C is correct").
3. Only in a reply that ended by itself: a letter or option on a line of its own at the start or the end, and in a
   short reply, or in its last line, the one choice that it names.

None is better than a wrong letter: what is refused, asked, supposed, contradicted or cut is not read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.text.choices import (
    BEYOND,
    DISAGREE,
    NOTHING,
    REFUSED,
    RULED_OUT,
    SEVERAL,
    Named,
    name_at_start,
    name_within,
)
from neuron_opsd.text.cleaning import MAX_CHARS, own_turn, plain
from neuron_opsd.text.fallbacks import FALLBACKS, FIRST_WORDS, IN_CUT, Fallback, lists_after
from neuron_opsd.text.free_form import CUT, canonical, read_free
from neuron_opsd.text.statements import Statement, certainty_of, first_sentence, statements_of
from neuron_opsd.text.thinking import strip_thinking


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from a reply, and by which pattern, or why nothing was."""

    answer: str | None
    kind: str


EMPTY, CONTRADICTED = "empty", "contradicts itself"
USERS_PATTERN = "prompts.answer_pattern"

_RETRACTED = re.compile(
    r"\b(?:(?:that|this)(?:'s| is| was| can't be| cannot be) (?:wrong|incorrect|not right|not correct|"
    r"not quite right|a mistake|right)|"
    r"i (?:made|have made) an? (?:mistake|error)|scratch that|let me (?:reconsider|start over|rethink))"
)
_TAKEN_BACK = re.compile(r"\b(?:wait|hmm|actually|however|but|let me (?:check|double|re))")
_NOT_LETTER = re.compile(r"(?:\bnot|n't) (?:option |choice |answer )?\(?([A-Z])\b(?! [a-z]{3,})")
_FIRST_LETTER = re.compile(r"[\W_]{0,4}([A-Z])(?: ?[=:)]|\. |\n)")
_OR = re.compile(r"(?<!\w)(?:or|and|/|&|oder|ou|et|y|o|e|или|и|或|和)[\s({$|]{0,4}$")


def read_answer(
    reply: str,
    *,
    choices: Sequence[str],
    answer_format: str = "reasoned",
    is_finished: bool = True,
    pattern: str | None = None,
) -> Reading:
    """Read the answer from a reply to a question that showed `choices` in this order.

    Args:
        reply: What the model wrote, with its thinking.
        choices: As they were shown. Empty for a free-form question.
        answer_format: `prompts.answer_format`: "choice_text" showed no letters, "letter" and "choice_text" asked for
            nothing but the answer, which a limit may therefore cut.
        is_finished: Whether the model ended the reply by itself. A cut one has no last word.
        pattern: A regular expression with one group, which takes the place of the table: its last match is read.

    Returns:
        A letter of the order shown, normalised text, an expression, or None, with the name of the pattern, or why not.
        A letter beyond the choices is None, never clipped.
    """
    said = strip_thinking(reply).strip()
    if not said:
        return Reading(None, EMPTY if not reply.strip() else "cut in its thinking")
    said = own_turn(said)[-MAX_CHARS:]
    if pattern is not None:
        found = [match[1] for match in re.finditer(pattern, said) if match[1]]
        if not found:
            return Reading(None, f"no match of {USERS_PATTERN}")
        return _read_group(found[-1], choices, answer_format)
    is_whole = is_finished or answer_format in ("letter", "choice_text")
    if not choices:
        return Reading(*read_free(said, answer_format, is_whole=is_whole))
    return _read_choice(plain(said), [plain(choice) for choice in choices], answer_format, is_whole=is_whole)


def _read_group(group: str, choices: Sequence[str], answer_format: str) -> Reading:
    """What a user's own pattern found: a letter, a choice's text, or free text."""
    if not choices:
        answer = canonical(group, answer_format)
        return Reading(answer, USERS_PATTERN if answer else NOTHING)
    shown = [plain(choice) for choice in choices]
    named = name_at_start(plain(group), shown, by_letter=answer_format != "choice_text")
    return Reading(named.letter, named.why_not or USERS_PATTERN)


def _read_choice(text: str, choices: Sequence[str], answer_format: str, *, is_whole: bool) -> Reading:
    by_letter = answer_format != "choice_text"
    if not is_whole:  # the last word may be half of one: "The answer is C" of "cortisol"
        text = re.sub(r"\w{1,40}$", "", text)
    if answer_format == "choice_text":
        first = FALLBACKS[0].read(text, choices, by_letter)
        if first.letter:
            return Reading(first.letter, FALLBACKS[0].name)
    reading = _read_statements(text, choices, by_letter=by_letter, is_whole=is_whole)
    if reading is not None:
        return reading
    if not is_whole and answer_format != "free":
        return Reading(None, CUT)
    # A free reply that was cut may have begun with its answer.
    fallbacks = FALLBACKS if is_whole else IN_CUT
    reading = _read_fallbacks(text, choices, fallbacks, by_letter=by_letter)
    return reading if is_whole or reading.answer else Reading(None, CUT)


def _read_fallbacks(
    text: str, choices: Sequence[str], fallbacks: Sequence[Fallback], *, by_letter: bool
) -> Reading:
    """The first of them that finds an answer, unless the reply refuses that letter."""
    why_not = NOTHING
    refused = set(_NOT_LETTER.findall(text))
    for fallback in fallbacks:
        named = fallback.read(text, choices, by_letter)
        if named.letter:
            return (
                Reading(None, RULED_OUT) if named.letter in refused else Reading(named.letter, fallback.name)
            )
        is_settled = named.why_not == SEVERAL and fallback.name.endswith("alone")
        if is_settled or (named.why_not == DISAGREE and fallback.name in FIRST_WORDS):
            return Reading(None, named.why_not)
        why_not = named.why_not if why_not == NOTHING else why_not
    return Reading(None, why_not)


def _read_statements(text: str, choices: Sequence[str], *, by_letter: bool, is_whole: bool) -> Reading | None:
    """The answer that the reply states, or says. None where it does neither."""
    asserted: list[tuple[Statement, Named]] = []
    hedged: list[tuple[Statement, Named]] = []
    settled = -1  # where a statement ends that is not asserted: "the answer would be C" holds "be C" too
    for statement in statements_of(text):
        if statement.start < settled:
            continue
        certainty = certainty_of(text, statement)
        named = _named_by(statement, choices, by_letter=by_letter)
        if certainty != "asserted":
            settled = statement.at + 2
        if certainty == "hedged":
            hedged.append((statement, named))
        elif certainty == "asserted":
            asserted.append((statement, named))
    stated = [each for each in asserted if each[0].pattern.weight == "stated"]
    said = [each for each in asserted if each[0].pattern.weight == "said"]
    reading = _last_stated(text, stated) or _agreed(said) or _agreed(hedged)
    if reading is None or reading.answer is None:
        return reading
    last = max(s.at for s, named in asserted + hedged if named.letter)
    later = {named.letter for s, named in said if named.letter and s.at >= last}
    rest = text[last:].lower()
    begins_with = _FIRST_LETTER.match(text)
    is_other = (
        not stated
        and by_letter
        and begins_with
        and begins_with[1] != reading.answer
        and not lists_after(begins_with[1], text)
    )
    if later - {reading.answer} or is_other or _RETRACTED.search(rest):
        return Reading(None, CONTRADICTED)
    return Reading(None, CUT) if not is_whole and _TAKEN_BACK.search(rest) else reading


def _named_by(statement: Statement, choices: Sequence[str], *, by_letter: bool) -> Named:
    piece, pattern = statement.piece, statement.pattern
    if pattern.is_around and not piece.lstrip("( ")[:1].isupper():
        return Named(None, NOTHING)
    named = name_at_start(piece, choices, by_letter=by_letter)
    if pattern.must_end and not (named.is_last or pattern.is_around):
        return Named(None, NOTHING)
    is_option = re.match(r"\W{0,4}[A-Z][.):]", piece)
    if named.why_not == NOTHING and pattern.weight == "stated" and not (pattern.must_end or is_option):
        return name_within(first_sentence(piece), choices)
    return named


def _last_stated(text: str, stated: Sequence[tuple[Statement, Named]]) -> Reading | None:
    current: Reading | None = None
    previous: Statement | None = None
    for statement, named in stated:
        if named.letter:
            is_other = current is not None and current.answer not in (None, named.letter)
            gap = text[previous.at : statement.start].lower() if previous else ""
            if is_other and previous and len(gap) < 40 and _OR.search(gap):
                current = Reading(None, SEVERAL)
            else:
                current = Reading(named.letter, statement.pattern.name)
            previous = statement
        elif named.why_not in (SEVERAL, BEYOND, DISAGREE) and not re.match(
            r"\W{0,3}[XxYy]\b", statement.piece
        ):
            current = Reading(None, named.why_not)
        elif named.why_not == RULED_OUT and current and current.answer:
            refused = re.match(
                r"\W{0,3}(?:definitely |actually )?not (?:option )?\(?([A-Z])\b", statement.piece
            )
            current = Reading(None, CONTRADICTED) if refused and refused[1] == current.answer else current
        elif named.why_not == REFUSED and current is None:
            current = Reading(None, REFUSED)
    return current


def _agreed(said: Sequence[tuple[Statement, Named]]) -> Reading | None:
    """What all of these say. They do not tell which of them is the last word."""
    letters = {named.letter for _, named in said if named.letter}
    if any(named.why_not == SEVERAL for _, named in said) and not letters:
        return Reading(None, SEVERAL)
    if len(letters) > 1:
        return Reading(None, CONTRADICTED)
    return next((Reading(named.letter, s.pattern.name) for s, named in said if named.letter), None)
