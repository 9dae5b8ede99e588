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

from neuron_opsd.text.answers import NUMBER, normalise_answer
from neuron_opsd.text.choices import (
    BEYOND,
    DISAGREE,
    NOTHING,
    REFUSED,
    RULED_OUT,
    SEVERAL,
    Named,
    denies,
    is_asked,
    is_denied_before,
    name_at_start,
    name_within,
    says_nothing,
)
from neuron_opsd.text.cleaning import MAX_CHARS, own_turn, plain, without_markup
from neuron_opsd.text.expressions import expression
from neuron_opsd.text.fallbacks import FALLBACKS, SHORT
from neuron_opsd.text.patterns import PATTERNS, Pattern
from neuron_opsd.text.thinking import strip_thinking

@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from a reply, and by which pattern; or why nothing was."""

    answer: str | None
    kind: str


CUT, EMPTY, CONTRADICTED = "cut", "empty", "contradicts itself"
USERS_PATTERN = "prompts.answer_pattern"

_MAX_STATEMENTS = 24  # of one reply: the last ones count, and a model that repeats itself says nothing new
_MAX_PIECE = 300

# What stands before a statement in its sentence and makes it none: a condition, someone else's view, a question.
_SUPPOSED = re.compile(
    r"\b(?:if|suppose|supposing|assume|assuming|whether|unless|when|say|had|were|why)(?: that)?(?: (?:the|your|my|our|a|an))?(?: [a-z]+)?\s?$"
    r"|\b(?:one|you|some|many|people|students?|others?|someone|user)(?: [a-z]+){0,3} (?:think|thinks|say|says|argue|believe|guess|choose|pick|answer|assume)\b"
    r"|\b(?:might|may|could)(?: [a-z]+){0,2} (?:think|say|argue|seem|believe|assume)\b|\btempt[a-z]+\b|\bat first\b|\binitially\b"
    r"|\bused to\s?$|\bi (?:first |initially |originally )?(?:thought|guessed|assumed)\b"
)
_IF = re.compile(r"\b(?:if|were|had)\b")
_WOULD = re.compile(r"\b(?:would|could|might)\b")
_WRONG_ONE = re.compile(
    r"\b(?:wrong|incorrect|other|another|previous|initial|earlier|tempting|distractor|false|common|popular|alternative|opposite|least|worst|"
    r"second|first|user's|student's|his|her|their|not (?:the|a|an|my)(?: (?:correct|right|best|final))?|n't (?:the|a|an)(?: (?:correct|right|best|final))?)\s?$"
)
_LEAST = re.compile(r"\b(?:least|worst)\b")
_HEDGE_BEFORE = re.compile(r"\b(?:maybe|perhaps|possibly|possible|could|might)\b[^.!?\n]{0,20}$")
_HEDGE_WITHIN = re.compile(r"\b(?:might|may|could|can) be\b")
_RETRACTED = re.compile(
    r"\b(?:(?:that|this)(?:'s| is| was| can't be| cannot be) (?:wrong|incorrect|not right|not correct|not quite right|a mistake|right)|"
    r"i (?:made|have made) an? (?:mistake|error)|scratch that|let me (?:reconsider|start over|rethink))"
)
_TAKEN_BACK = re.compile(r"\b(?:wait|hmm|actually|however|but|let me (?:check|double|re))")
_NOT_LETTER = re.compile(r"(?:\bnot|n't) (?:option |choice |answer )?\(?([A-Z])\b(?! [a-z]{3,})")
_OR = re.compile(r"(?<!\w)(?:or|and|/|&|oder|ou|et|y|o|e|или|и|或|和)[\s({$|]{0,4}$")
_FIRST_SENTENCE = re.compile(r"[^\n]{0,300}?(?:(?<![A-Z\d])[.!?;](?=\s|$)|(?<=\d)[.!?;](?=\s|$)|\n|$)")


@dataclass(frozen=True, slots=True)
class _Statement:
    """One match of a pattern, and the piece of text that holds the answer."""

    pattern: Pattern
    start: int
    at: int
    piece: str
    cue: str


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
        choices: As they were shown; empty for a free-form question.
        answer_format: `prompts.answer_format`: "choice_text" showed no letters, "letter" and "choice_text" asked for
            nothing but the answer, which a limit may therefore cut.
        is_finished: Whether the model ended the reply by itself; a cut one has no last word.
        pattern: A regular expression with one group, which takes the place of the table: its last match is read.

    Returns:
        A letter of the order shown, normalised text, an expression, or None; with the name of the pattern, or why not.
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
        return _read_free(said, answer_format, is_whole=is_whole)
    return _read_choice(plain(said), [plain(choice) for choice in choices], answer_format, is_whole=is_whole)


def _read_group(group: str, choices: Sequence[str], answer_format: str) -> Reading:
    """What a user's own pattern found: a letter, a choice's text, or free text."""
    if not choices:
        answer = _canonical(group, answer_format)
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
    if not is_whole:
        return Reading(None, CUT)
    why_not = NOTHING
    refused = set(_NOT_LETTER.findall(text))
    for fallback in FALLBACKS:
        named = fallback.read(text, choices, by_letter)
        if named.letter in refused:
            return Reading(None, RULED_OUT)
        if named.letter:
            return Reading(named.letter, fallback.name)
        if named.why_not == SEVERAL and fallback.name.endswith("alone"):
            return Reading(None, SEVERAL)
        why_not = named.why_not if why_not == NOTHING else why_not
    return Reading(None, why_not)


# ---- statements --------------------------------------------------------------------------------------------------


def _statements(text: str) -> list[_Statement]:
    """The last matches of the table, in the order of the text."""
    low = text.lower()
    found = [(m.start(), m.end(), i, m) for i, row in enumerate(PATTERNS) for m in row.regex.finditer(low)]
    found.sort(key=lambda each: each[:3])
    return [_statement(text, PATTERNS[i], match) for _, _, i, match in found[-_MAX_STATEMENTS:]]


def _statement(text: str, pattern: Pattern, match: re.Match[str]) -> _Statement:
    if match.lastgroup:
        start, end = match.span(match.lastgroup)
        return _Statement(pattern, match.start(), end, text[start:end], match[0])
    at = match.end()
    piece = text[at : at + _MAX_PIECE]
    if match[0].endswith("{"):
        piece = _until_closed(piece)
    elif match[0].endswith(">"):
        piece = re.split(r"</|<\|", piece.lstrip(), maxsplit=1)[0]
    piece = re.split(r"</|<\|", piece, maxsplit=1)[0].lstrip()
    return _Statement(pattern, match.start(), at, piece, match[0])


def _until_closed(text: str) -> str:
    """What stands before the brace that closes; nothing where it was cut."""
    depth = 0
    for place, char in enumerate(text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            return text[:place]
    return ""


def _read_statements(text: str, choices: Sequence[str], *, by_letter: bool, is_whole: bool) -> Reading | None:
    """The answer that the reply states, or says; None where it does neither."""
    asserted: list[tuple[_Statement, Named]] = []
    hedged: list[tuple[_Statement, Named]] = []
    settled = -1  # where a statement ends that is not asserted: "the answer would be C" holds "be C" too
    for statement in _statements(text):
        if statement.start < settled:
            continue
        certainty = _certainty(text, statement)
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
    if later - {reading.answer} or _RETRACTED.search(rest):
        return Reading(None, CONTRADICTED)
    return Reading(None, CUT) if not is_whole and _TAKEN_BACK.search(rest) else reading


def _certainty(text: str, statement: _Statement) -> str:
    """ "asserted", "hedged", or "no": supposed, asked, denied, of another answer."""
    low = text[max(statement.start - 160, 0) : statement.start].lower()
    before = re.split(r"[.!?\n]|\b(?:but|however)\b", low)[-1]
    if _SUPPOSED.search(before) or _WRONG_ONE.search(before):
        return "no"
    if _IF.search(before) and _WOULD.search(statement.cue):
        return "no"
    if denies(statement.cue) or _LEAST.search(statement.cue) or is_denied_before(text, statement.start):
        return "no"
    if is_asked(text, statement.at):
        return "no"
    is_hedged = _HEDGE_BEFORE.search(before) or _HEDGE_WITHIN.search(statement.cue)
    return "hedged" if is_hedged else "asserted"


def _named_by(statement: _Statement, choices: Sequence[str], *, by_letter: bool) -> Named:
    piece, pattern = statement.piece, statement.pattern
    if "P<" in pattern.regex.pattern and not piece.lstrip("( ")[:1].isupper():
        return Named(None, NOTHING)
    named = name_at_start(piece, choices, by_letter=by_letter)
    if pattern.must_end and not (named.is_last or "P<" in pattern.regex.pattern):
        return Named(None, NOTHING)
    is_option = re.match(r"\W{0,4}[A-Z][.):]", piece)
    if named.why_not == NOTHING and pattern.weight == "stated" and not (pattern.must_end or is_option):
        sentence = _FIRST_SENTENCE.match(piece)
        return name_within(sentence[0] if sentence else piece, choices)
    return named


def _last_stated(text: str, stated: Sequence[tuple[_Statement, Named]]) -> Reading | None:
    current: Reading | None = None
    previous: _Statement | None = None
    for statement, named in stated:
        if named.letter:
            is_other = current is not None and current.answer not in (None, named.letter)
            gap = text[previous.at : statement.start].lower() if previous else ""
            if is_other and previous and len(gap) < 40 and _OR.search(gap):
                current = Reading(None, SEVERAL)
            else:
                current = Reading(named.letter, statement.pattern.name)
            previous = statement
        elif named.why_not in (SEVERAL, BEYOND, DISAGREE) and not re.match(r"\W{0,3}[XxYy]\b", statement.piece):
            current = Reading(None, named.why_not)
        elif named.why_not == RULED_OUT and current and current.answer:
            refused = re.match(r"\W{0,3}(?:definitely |actually )?not (?:option )?\(?([A-Z])\b", statement.piece)
            current = Reading(None, CONTRADICTED) if refused and refused[1] == current.answer else current
        elif named.why_not == REFUSED and current is None:
            current = Reading(None, REFUSED)
    return current


def _agreed(said: Sequence[tuple[_Statement, Named]]) -> Reading | None:
    """What all of these say; they do not tell which of them is the last word."""
    letters = {named.letter for _, named in said if named.letter}
    if any(named.why_not == SEVERAL for _, named in said) and not letters:
        return Reading(None, SEVERAL)
    if len(letters) > 1:
        return Reading(None, CONTRADICTED)
    return next((Reading(named.letter, s.pattern.name) for s, named in reversed(said) if named.letter), None)


# ---- free-form answers ---------------------------------------------------------------------------------------------


def _read_free(reply: str, answer_format: str, *, is_whole: bool) -> Reading:
    text = without_markup(reply)
    stated = [
        (statement, answer)
        for statement in _statements(text)
        if statement.pattern.in_free_form and _certainty(text, statement) != "no"
        if (answer := _free_answer(statement, answer_format))
    ]
    boxed = [each for each in stated if each[0].pattern.name == "boxed"]
    if boxed or stated:
        statement, answer = (boxed or stated)[-1]
        return Reading(answer, statement.pattern.name)
    if not is_whole:
        return Reading(None, CUT)
    if answer_format not in ("reasoned", "math"):
        answer = normalise_answer(text.splitlines()[0])
        return Reading(answer or None, "first line" if answer else NOTHING)
    numbers = NUMBER.findall(text if len(text) <= SHORT else text.rpartition("\n")[2])
    return Reading(normalise_answer(numbers[-1]), "last number") if numbers else Reading(None, NOTHING)


def _free_answer(statement: _Statement, answer_format: str) -> str | None:
    piece = statement.piece
    if statement.pattern.name != "boxed":
        sentence = _FIRST_SENTENCE.match(piece)
        piece = (sentence[0] if sentence else piece).strip(" \n:=\"'|").rstrip(".!;").rstrip(" \"'}|")
        if says_nothing(piece):
            return None
    return _canonical(piece, answer_format)


def _canonical(text: str, answer_format: str) -> str | None:
    number_or_text = normalise_answer(text if answer_format == "math" else plain(text))
    if answer_format != "math" or NUMBER.fullmatch(number_or_text):
        return number_or_text or None
    return expression(text)
