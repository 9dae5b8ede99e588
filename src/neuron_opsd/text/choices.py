"""Which choice a piece of text names: by its letter, by its text, by both, or several of them. No model, no torch.

The pieces are plain text (`cleaning.plain`). Nothing here searches a whole reply.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.text.answers import LETTERS, number_form
from neuron_opsd.text.negation import is_asked, is_denied_before, is_judged_wrong
from neuron_opsd.text.words import Mention, forms_of, is_common, is_number, mentions, words_of

# Why a piece of text that should name a choice names none.
SEVERAL, BEYOND, DISAGREE = "several letters", "beyond the choices", "letter and text disagree"
RULED_OUT, REFUSED, NOTHING = "only ruled out", "refusal", "no answer"


@dataclass(frozen=True, slots=True)
class Named:
    """The letter that a piece of text names, or why there is none, and whether the piece ends with it."""

    letter: str | None
    why_not: str = ""
    is_last: bool = False


# What may stand between "the answer is" and the answer. Lower case. The longest first where one begins another.
_FILLERS = (
    r"definitely|certainly|clearly|obviously|most likely|most probably|very likely|probably|likely|indeed|"
    r"simply|just|"
    r"actually|surely|undoubtedly|therefore|thus|hence|then|so|again|also|still|in fact|of course|in my opinion|"
    r"i think|i believe|i would say|i'd say|i guess|i would go with|i'd go with|given by|to be|none other than|"
    r"it is|it's|is|that|based on the (?:above|passage|text|information)|"
    r"the (?:correct |right |final |best )?(?:answer|option|choice|letter)(?: is)?|the|about|approximately|roughly|"
    r"(?:correct |right |final |best )?(?:answer|option|choice|letter|alternative)s?(?: is)?|both|either|"
    r"der buchstabe|buchstabe|antwort|die|der|das|daher|also|somit|eindeutig|wahrscheinlich|"
    r"l'option|la lettre|lettre|réponse|donc|la|le|sans doute|"
    r"la letra|letra|respuesta|opción|pues|por tanto|por lo tanto|el|"
    r"la lettera|lettera|risposta|opzione|quindi|dunque|il|"
    r"a letra|alternativa|resposta|opção|portanto|(?-i:a(?= [A-Z]\b))|o|"
    r"это|буква|вариант|ответ|под буквой|选项|選項|選択肢|선택지|보기|الخيار|الحرف|حرف"
)
_BEFORE = re.compile(
    rf"(?:[\s\"'(\[{{<:=|>$*,#•]{{1,12}}|[–—-](?!\d)|(?:{_FILLERS})(?![a-zà-ÿ0-9'а-я])){{1,12}}",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:not|never|neither|nor|no|none|nothing|anything but|everything but|other than|except|cannot|can't|"
    r"isn't|nicht|"
    r"kein\w*|weder|pas|ni|no es|não|nem|non|né|не|ни|нет|ليس\w*|لا)(?!\w)|n't|不|非|并非|没",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?:i (?:do not|don't|cannot|can't|am not|am unable|'m not|'m unable|can not)|i'm (?:sorry|not|unable)|"
    r"unknown|unsure|"
    r"undetermined|(?:it )?(?:cannot|can't) be determined|n/a|not (?:enough|given|listed|provided|among|"
    r"sure|clear|certain)|"
    r"none of (?:the|these|them)|depends|\?|unclear|impossible to (?:say|tell))",
    re.IGNORECASE,
)
# A letter is followed by an end, by a mark, or by a word that goes on about it: "C because", never "C fibres".
_LETTER = re.compile(r"([A-Za-zАС])(?![A-Za-zÀ-ɏͰ-ӿ0-9_]|'\w)")
_CLOSERS = re.compile(r"[)\]}>\"'*|]{0,4}")
_GOES_ON = (
    r"because|since|as|for|due|which|where|is|was|would|must|should|but|with|in|by|from|given|according|here|on|overall|among|again|"
    r"based|who|that|"
    r"if|and|or|instead|not|rather|over|correct|only|ist|weil|denn|car|parce|porque|perché|poiché|потому|"
    r"так|, |est|es"
)
_FOLLOWER = re.compile(
    rf" (?:{_GOES_ON})(?!\w)| ?[(\[{{\"|/&+=–—<] ?| ?-(?!\w)| ?[^\w\s'-]|\s*$|\n| ?(?=[⺀-鿿぀-ヿ가-힯ء-ي])",
    re.IGNORECASE,
)
_JOIN = (
    r"(?:[\s,;/&+、|)(\]\["
    '"'
    r"]|\b(?:and|or|und|oder|et|ou|y|o|e|и|или|nor|as well as|option|also|both|either|possibly|perhaps|"
    r"maybe|probably|even)\b|和|或|与|と|や|또는|과|와)"
)
_SECOND = re.compile(
    rf"{_JOIN}{{1,8}}\(?([A-Z])(?![A-Za-zÀ-ɏͰ-ӿ0-9_':]|[.-]\w|\. [a-z]|\) ?[a-z])(?! (?:is|was|isn't|has|"
    rf"does|would|can|cannot|could|will|may|might)\b)"
    r"(?![ ]?[不并非])"
)
_OTHERS_ARE_WRONG = re.compile(
    r"[;,.:(] ?(?:[A-Z](?:, and |, | and | or |/)?){1,8} (?:are|is|were) (?:all |both |clearly ){0,2}"
    r"(?:wrong|incorrect|not|false|ruled|eliminated|out)\b"
)
_ASKED = re.compile(r"[^\s?]{1,40}[\s\"')]{0,2}\?")
_END = re.compile(r"[\s)\]}>\"'*.!,;|。✓✔✅]*(?:\n|$)|[)\]}\"'*]{0,3}[.!;](?:\s|$)|[)\]}\"'*]{0,3}[。]")


def name_at_start(piece: str, choices: Sequence[str], *, by_letter: bool = True) -> Named:
    """The choice that a piece of text begins with, after words that only lead to it ("most likely C")."""
    as_it_is = piece.lstrip(" \n:=\"'(*|")[:200]  # "both A and B" may be a choice's text
    if _ASKED.match(as_it_is):
        return Named(None, NOTHING)
    if (by_text := _text_at_start(as_it_is, choices, by_letter=by_letter)) and by_text.letter:
        return by_text
    start = match.end() if (match := _BEFORE.match(piece)) else 0
    piece = piece[start : start + 200]
    if _ASKED.match(piece):
        return Named(None, NOTHING)
    by_text = _text_at_start(piece, choices, by_letter=by_letter)
    if by_text is not None:
        return by_text
    if not piece:
        return Named(None, NOTHING)
    if _REFUSAL.match(piece):
        return Named(None, REFUSED)
    if _NEGATED.match(piece):
        return Named(None, RULED_OUT)
    return _number_at_start(piece, choices) or (
        _letter_at_start(piece, choices) if by_letter else Named(None, NOTHING)
    )


def _number_at_start(piece: str, choices: Sequence[str]) -> Named | None:
    """A bare number where only one choice has it, with a unit: "15" for "15 N"."""
    number = re.match(r"-?\d[\d,]*(?:\.\d+)?(?=[\s)\]}\"'.]*(?:\n|$))", piece)
    if not number:
        return None
    numbers = [
        [form for form in forms_of(choice, with_articles=True) if form[0].isdigit()] for choice in choices
    ]
    same = [i for i, own in enumerate(numbers) if own == [number_form(number[0])]]
    return Named(LETTERS[same[0]], is_last=True) if len(same) == 1 else None


def says_nothing(piece: str) -> bool:
    """Whether a piece of text refuses to answer, or only says what the answer is not."""
    return bool(_REFUSAL.match(piece) or re.match(r"(?:not|never|neither)\b", piece, re.IGNORECASE))


def _text_at_start(piece: str, choices: Sequence[str], *, by_letter: bool) -> Named | None:
    """By a choice's text: alone, or before a mark or a word that goes on. None: no text stands there."""
    found = mentions(piece, choices)
    if not found or (found[0].first_word != 0 and piece[: found[0].start].lower() not in ("a ", "an ")):
        return None
    first = found[0]
    after = piece[first.end :]
    is_letter = len(piece[first.start : first.end].strip()) == 1 and piece[first.start].isalpha()
    if (
        (is_letter and by_letter)
        or not _FOLLOWER.match(_CLOSERS.sub("", after, count=1))
        or re.match(r" ?[\^+*/=<>×÷·]", after)
    ):
        return None
    if is_common(choices[first.choice]) and not re.match(r"[\s)\]}\"']*(?:[.,;:!\n(–—-]|$)", after):
        return None
    if len(found) > 1 and re.fullmatch(rf"{_JOIN}{{1,8}}", piece[first.end : found[1].start]):
        return None if found[1].choice == first.choice else Named(None, SEVERAL)
    if is_judged_wrong(after):
        return Named(None, RULED_OUT)
    letter = LETTERS[first.choice]
    given = re.match(
        r"[\s,]{0,2}(?:\(|\[|(?:which is |i\.e\.,? )?(?:option|choice|answer|letter) \(?)([A-Z])(?:[)\].,]|$)",
        after,
    )
    if by_letter and given and given[1] != letter:
        return Named(None, DISAGREE)
    return Named(letter, is_last=_END.match(after[given.end() :] if given else after) is not None)


def _letter_at_start(piece: str, choices: Sequence[str]) -> Named:
    joined = re.match(r"[A-Z]{2,8}(?![\w'-])", piece)
    if (
        joined
        and len(set(joined[0])) == len(joined[0])
        and all(LETTERS.index(c) < len(choices) for c in joined[0])
    ):
        return Named(None, SEVERAL)
    match = _LETTER.match(piece)
    if not match:
        return Named(None, NOTHING)
    letter = {"А": "A", "С": "C"}.get(match[1], match[1])  # Cyrillic letters that look like ours
    after = piece[match.end() :]
    is_last = _END.match(after) is not None
    if letter.islower() and not (is_last or re.match(r"[)\]}]", after)):
        return Named(None, NOTHING)
    letter, index = letter.upper(), LETTERS.index(letter.upper())
    after = after[_CLOSERS.match(after).end() :]  # pyright: ignore[reportOptionalMemberAccess]
    has_own_text = index < len(choices) and any(
        m.choice == index and m.first_word == 0 for m in mentions(after, choices)
    )
    second = None if has_own_text or _OTHERS_ARE_WRONG.match(after) else _SECOND.match(after)
    if second and second[1] != letter:
        return Named(None, SEVERAL)
    if re.match(r" ?[:)] ?[A-Z](?![\w'])", after):
        return Named(None, SEVERAL)
    if index >= len(choices):
        return Named(None, BEYOND if _FOLLOWER.match(after) else NOTHING)
    return _letter_with_text(letter, after, choices, is_last=is_last)


def _letter_with_text(letter: str, after: str, choices: Sequence[str], *, is_last: bool) -> Named:
    """A letter and what follows it: the choice's own text agrees, another choice's text does not."""
    index = LETTERS.index(letter)
    if re.match(
        rf"[^\n]{{0,80}}[\n ]\W{{0,4}}{chr(ord(letter) + 1)}(?:[.):]|\s?[-–]) ?\w", after
    ):  # the first of a list
        return Named(None, NOTHING)
    separator = re.match(r"\s?[.:)(\[–—|,-]?\s?[(\"'-]?\s?", after)
    text = after[separator.end() :] if separator else after
    is_new_clause = separator is not None and separator[0].strip() in ("", ",")
    found = [
        m
        for m in mentions(text, choices)
        if m.first_word == 0 or text[: m.start].lower() in ("a ", "an ", "the ")
    ]
    if found and not is_common(choices[found[0].choice]):
        own = [m for m in found if m.choice == index]
        rest = text[(own or found)[0].end :]
        if own:
            wrong = is_judged_wrong(rest)
            return Named(None, RULED_OUT) if wrong else Named(letter, is_last=_END.match(rest) is not None)
        if not is_new_clause and _FOLLOWER.match(rest):
            return Named(None, DISAGREE)
    if is_judged_wrong(after, within=30) and re.match(
        r"\s?(?:is|was|isn't|ist|est|es|è|é|n'est|no|não|non|不|wrong|incorrect|\S{0,2}(?:ではな|じゃな|でな|\s?아니))",
        after,
    ):
        return Named(None, RULED_OUT)
    own_words = forms_of(choices[index], with_articles=False)
    said_words = [word.form for word in words_of(text)[:8]]
    shares_a_word = any(len(word) > 3 and word in own_words for word in said_words)  # "A. having a fireplace"
    if shares_a_word or said_words[:1] == list(own_words[:1]):
        return Named(letter, is_last=is_last)
    is_genus = re.match(r"\. ?[a-z]", after) and not re.match(
        rf"\. ?(?:{_GOES_ON}|it|this|the|a|an|they|these|he|she|we|i|there|so|hence|thus|therefore)\b", after
    )
    if is_genus or not _FOLLOWER.match(after) or (letter == "I" and after.startswith(",")):
        return Named(None, NOTHING)
    return Named(letter, is_last=is_last)


def choices_said(piece: str, choices: Sequence[str]) -> set[int]:
    """The choices whose text a piece of text holds without refusing or asking for it."""
    return {m.choice for m in _findable(piece, choices) if not _is_unsaid(piece, m)}


def name_within(piece: str, choices: Sequence[str]) -> Named:
    """The one choice whose text a piece of text says."""
    said = choices_said(piece, choices)
    if len(said) == 1:
        return Named(LETTERS[said.pop()], is_last=True)
    return Named(None, SEVERAL if said else RULED_OUT if _findable(piece, choices) else NOTHING)


def _findable(piece: str, choices: Sequence[str]) -> list[Mention]:
    """Mentions within a sentence. A bare number among other numbers is no answer yet, nor is a word such as "no"."""
    numbers = {word.form for word in words_of(piece) if word.form[0].isdigit()}
    return [
        m
        for m in mentions(piece, choices)
        if not is_common(choices[m.choice]) and not (is_number(choices[m.choice]) and len(numbers) > 1)
    ]


def _is_unsaid(piece: str, mention: Mention) -> bool:
    """Refused by its own clause ("not X", "X is wrong"), or asked."""
    is_refused = is_judged_wrong(piece, mention.end)
    return is_refused or is_denied_before(piece, mention.start) or is_asked(piece, mention.end)
