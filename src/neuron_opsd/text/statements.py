"""Where a reply states an answer: the matches of `patterns.py`, and whether the reply stands by them."""

import re
from collections import deque
from dataclasses import dataclass

from neuron_opsd.text.negation import denies, is_asked, is_denied_before
from neuron_opsd.text.patterns import PATTERNS, Pattern

# Of one reply, the last ones count. What is "said" after an answer must not push out the one that is "stated".
_MOST = {"stated": 16, "said": 8}
_MAX_PIECE = 300

# What stands before a statement in its sentence and makes it none: a condition, someone else's view, a question.
_SUPPOSED = re.compile(
    r"\b(?:if|suppose|supposing|assume|assuming|whether|unless|when|say|had|were|why)(?: that)?(?: (?:the|"
    r"your|my|our|a|an))?(?: [a-z]+)?\s?$"
    r"|\b(?:one|you|some|many|people|students?|others?|someone|user)(?: [a-z]+){0,3} (?:think|thinks|say|"
    r"says|argue|believe|guess|choose|pick|answer|assume)\b"
    r"|\b(?:might|may|could)(?: [a-z]+){0,2} (?:think|say|argue|seem|believe|assume)\b|\btempt[a-z]+\b|"
    r"\bat first\b|\binitially\b"
    r"|\bused to\s?$|\bi (?:first |initially |originally )?(?:thought|guessed|assumed)\b"
)
_IF = re.compile(r"\b(?:if|were|had)\b")
_WOULD = re.compile(r"\b(?:would|could|might)\b")
_WRONG_ONE = re.compile(
    r"\b(?:wrong|incorrect|other|another|previous|initial|earlier|tempting|distractor|false|common|popular|"
    r"alternative|opposite|least|worst|"
    r"second|first|user's|student's|his|her|their|not (?:the|a|an|my)(?: (?:correct|right|best|final))?|"
    r"n't (?:the|a|an)(?: (?:correct|right|best|final))?)\s?$"
)
_LISTS = re.compile(
    r"\b(?:options|choices|alternatives)\W{0,4}:"
)  # "the correct choice, let's examine the options: A."
_LEAST = re.compile(r"\b(?:least|worst)\b")
_HEDGE_BEFORE = re.compile(r"\b(?:maybe|perhaps|possibly|possible|could|might)\b[^.!?\n]{0,20}$")
_HEDGE_WITHIN = re.compile(r"\b(?:might|may|could|can) be\b")
_FIRST_SENTENCE = re.compile(r"[^\n]{0,300}?(?:(?<![A-Z\d])[.!?;](?=\s|$)|(?<=\d)[.!?;](?=\s|$)|\n|$)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One match of a pattern, and the piece of text that holds the answer."""

    pattern: Pattern
    start: int
    at: int
    piece: str
    cue: str


def statements_of(text: str) -> list[Statement]:
    """The last matches of the table, in the order of the text."""
    low = text.lower()
    last: list[tuple[int, int, int, re.Match[str]]] = []
    for weight, most in _MOST.items():
        found = [
            (match.start(), match.end(), number, match)
            for number, row in enumerate(PATTERNS)
            if row.weight == weight
            for match in deque(row.regex.finditer(low), maxlen=most)
        ]
        last += sorted(found, key=lambda each: each[:3])[-most:]
    last.sort(key=lambda each: each[:3])
    return [_statement(text, PATTERNS[number], match) for _, _, number, match in last]


def _statement(text: str, pattern: Pattern, match: re.Match[str]) -> Statement:
    start = match.start() + len(match[0]) - len(match[0].lstrip(" \n.;!?|>#*"))  # where its own words begin
    if match.lastgroup:
        first, end = match.span(match.lastgroup)
        return Statement(pattern, start, end, text[first:end], match[0])
    at = match.end()
    piece = text[at : at + _MAX_PIECE]
    if match[0].endswith("{"):
        piece = _until_closed(piece)
    elif match[0].endswith(">"):
        piece = re.split(r"</|<\|", piece.lstrip(), maxsplit=1)[0]
    piece = re.split(r"</|<\|", piece, maxsplit=1)[0].lstrip()
    return Statement(pattern, start, at, piece, match[0])


def _until_closed(text: str) -> str:
    """What stands before the brace that closes. Nothing where it was cut."""
    depth = 0
    for place, char in enumerate(text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            return text[:place]
    return ""


def first_sentence(piece: str) -> str:
    """Its first sentence. "E. coli" and "3.5" end none."""
    found = _FIRST_SENTENCE.match(piece)
    return found[0] if found else piece


def certainty_of(text: str, statement: Statement) -> str:
    """Either "asserted", "hedged", or "no": supposed, asked, denied, or of another answer."""
    low = text[max(statement.start - 160, 0) : statement.start].lower()
    before = re.split(r"[.!?\n]|\b(?:but|however)\b", low)[-1]
    if _SUPPOSED.search(before) or _WRONG_ONE.search(before):
        return "no"
    if _IF.search(before) and _WOULD.search(statement.cue):
        return "no"
    is_denied = denies(statement.cue) and not statement.pattern.must_end  # "wait, no: C" corrects
    if (
        is_denied
        or _LEAST.search(statement.cue)
        or _LISTS.search(statement.cue)
        or is_denied_before(text, statement.start)
    ):
        return "no"
    if is_asked(text, statement.at):
        return "no"
    is_hedged = _HEDGE_BEFORE.search(before) or _HEDGE_WITHIN.search(statement.cue)
    return "hedged" if is_hedged else "asserted"
