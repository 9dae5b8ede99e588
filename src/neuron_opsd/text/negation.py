"""What a sentence refuses or asks, and so does not say. No model, no torch."""

import re

# Where the reach of a "not" ends: the end of a clause, a contrast, or a new subject after a comma.
_CLAUSE_END = re.compile(
    r"(?:(?<!\b[A-Z])\.|[;!?\n:—]|\"[,;])(?!\d)|\b(?:(?<!anything )but|rather(?! than)|instead(?! of)|"
    r"however|although|"
    r"though|sondern|mais|sino|pero|ma|mas|но|а)\b|而是|"
    r", ?(?:it|this|that|the|so|he|they|we|i|which|hence|thus|therefore)\b",
    re.IGNORECASE,
)
_NOT = re.compile(
    r"\b(?:not(?! only| just)|no(?! doubt| question)|never|neither|nor|none|nothing|nobody|nowhere|cannot|"
    r"lacks?|lacking|devoid of|"
    r"free of|far from|"
    r"anything but|opposite of|hardly|fails? to|failed to|absence of|ruled? out|exclud\w+|eliminat\w+|non|"
    r"wrong|incorrect|false that|untrue|"
    r"doubt(?:ful)?|unlikely|nicht|kein\w*|weder|pas|sans|ni|não|nem|sin|né|senza|не|ни|нет)\b|n't\b|不|非|没|"
    r"ليس|غير|[❌✗✘]",
    re.IGNORECASE,
)
_JUDGED_WRONG = re.compile(
    r"(?:(?!, ?(?:it|this|that|i|we|you|he|she|they|there|so|the|as|because|since|while|unlike|"
    r"not)\b)[^.;\n]){0,40}?\b(?:(?:is|are|"
    r"was|were|does|do|did|can|could|would|has|will)(?: (?:not|never|be|clearly|"
    r"therefore|also))*(?:n't)? ?"
    r"(?:not|never|wrong|incorrect|false|ruled out|excluded|eliminated|unlikely|impossible|out)|isn't|"
    r"aren't|wasn't|doesn't|"
    r"don't|can't|cannot|won't|wrong|incorrect|ist (?:nicht|falsch)|n'est pas|no es|non è|não é|не)\b|"
    r"[^.;\n]{0,12}(?:不是|不对|错|ではな|じゃな|でな|아니)",
    re.IGNORECASE,
)
# These reach no further than the next comma: "unlike insulin, cortisol".
_NOT_THAT = re.compile(
    r"\b(?:unlike|rather than|instead of|other than|except(?: for)?|without(?! doubt)|compared (?:to|with)|"
    r"in contrast to|as opposed to)\b[^,;]{0,60}$",
    re.IGNORECASE,
)


def denies(text: str) -> bool:
    """Whether a piece of text says "not"."""
    return _NOT.search(text) is not None


def is_denied_before(text: str, start: int) -> bool:
    """Whether the clause that leads to `start` says "not"."""
    before = text[max(start - 160, 0) : start]
    clause = before[max((m.end() for m in _CLAUSE_END.finditer(before)), default=0) :]
    return denies(clause) or _NOT_THAT.search(clause) is not None


def is_asked(text: str, end: int) -> bool:
    """Whether the sentence goes on from `end` to a question mark."""
    return re.compile(r"[^.!?\n]{0,100}\?").match(text, end) is not None


def is_judged_wrong(text: str, start: int = 0, *, within: int = 80) -> bool:
    """Whether the clause goes on from `start` to say that this is wrong: "is not", "can be ruled out"."""
    return _JUDGED_WRONG.match(text, start, start + within) is not None
