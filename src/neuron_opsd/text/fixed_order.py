"""Choices that point at other choices ("All of the above", "Both A and B"): moving them would change what they say."""

import re
from collections.abc import Sequence

# Each with its example. Letters count where a word or another letter shows that they name a choice.
_POINTS_AT_OTHERS = [
    # All of the above. None of these. Any of the above. Two of them.
    r"\b(?:all|none|any|both|neither|either|some|most|one|two|three) of (?:the )?"
    r"(?:above|below|these|those|them|following|others?|options|choices|answers|preceding|previous)\b",
    # The above are correct. Not listed above.
    r"\b(?:all|none|both|neither|nothing|listed|mentioned|given|of) (?:the )?(?:above|below)\b",
    # All are correct. None is true. Both are false.
    r"^\W*(?:all|none|both|neither)(?: (?:are|is))?(?: (?:correct|true|right|wrong|false|incorrect))?\W*$",
    # More than one of ..., No other option, The other choices
    r"\b(?:other|another|previous|preceding|first|last) (?:options?|choices?|answers?)\b",
    # Alle oben genannten. Keine der obigen. Toutes ces réponses. Todas las anteriores. Tutte le precedenti. Nessuna.
    r"\b(?:alle|keine[rs]?|beide) (?:der |die )?(?:oben|obigen|genannten|antworten)\b",
    r"\b(?:toutes|aucune|todas|ninguna|tutte|nessuna|nenhuma)\b.*\b(?:réponses?|dessus|anteriores|precedenti|respuestas|risposte)\b",
    # 以上都是, 以上皆非
    r"以上",
]
_WORDS = re.compile("|".join(_POINTS_AT_OTHERS), re.IGNORECASE)

# Both A and B. A & C. (a) or (b). A, B and D. Neither B nor C.
_LETTERS = r"(?:\(?[A-{last}]\)?|\([a-{small}]\))"
_PAIR = r"(?<![\w'-]){one}\s*(?:,|/|&|\+|and|or|nor|und|oder|et|ou|y|e|o)\s*(?:and\s+)?{one}(?![\w'-])"
# Option A is wrong. Same as B. Only C. D only.
_NAMED = (
    r"\b(?i:options?|choices?|answers?|same as|only|not|except|but|like) {one}(?![\w'-])"
    r"|(?<![\w'-]){one} (?i:only|alone)\b"
)


def has_fixed_order(choices: Sequence[str]) -> bool:
    """Whether a choice points at others, by words or by their letters, so that the order must stay as it is."""
    if len(choices) < 2:
        return False
    letters = _letters_pattern(len(choices))
    return any(_WORDS.search(choice) or letters.search(choice) for choice in choices)


def _letters_pattern(num_choices: int) -> re.Pattern[str]:
    last = chr(ord("A") + num_choices - 1)
    one = _LETTERS.format(last=last, small=last.lower())
    return re.compile(f"{_PAIR.format(one=one)}|{_NAMED.format(one=one)}")
