"""The words of a text, and where the texts of choices stand among them. No model, no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from neuron_opsd.text.answers import number_form

_WORD = re.compile(
    r"\d[\d,]*(?:\.\d+)?|\.\d+|[^\W\d_][^\W_]*|[^\w\s.,;:!?'\"()\[\]{}*_`$\\%|<>]|[<>](?=\s?\d)"
)
_ARTICLES = frozenset({"a", "an", "the"})
# A choice of one such word is too common to be found within a sentence: it must be the whole piece, or begin it.
_COMMON_WORDS = """
    yes no none both all neither either not and or maybe other it is in on at by of to for with from as be do did
    does was are were have has had can could will would so if then than that this he she they we you
"""
_COMMON = frozenset(_COMMON_WORDS.split())


@dataclass(frozen=True, slots=True)
class Word:
    """A word, number or sign in canonical form, and where it stands."""

    form: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mention:
    """A choice's text within another text: the choice, its first word's number there, and where it stands."""

    choice: int
    first_word: int
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words, numbers and signs of a text, without its punctuation."""
    return [
        Word(number_form(m[0]) if m[0][0].isdigit() or m[0][0] == "." else m[0].lower(), m.start(), m.end())
        for m in _WORD.finditer(text)
    ]


def _without_articles(words: list[str]) -> list[str]:
    """Except at the end: "Vitamin A" is not "Vitamin"."""
    return [word for i, word in enumerate(words) if word not in _ARTICLES or i == len(words) - 1]


@lru_cache(maxsize=4096)
def forms_of(choice: str, *, with_articles: bool) -> tuple[str, ...]:
    """A choice's words, with or without its articles."""
    words = [word.form for word in words_of(choice)]
    return tuple(words if with_articles else _without_articles(words))


def is_common(choice: str) -> bool:
    """Whether a choice's text is a single letter or a word that any sentence may hold."""
    forms = forms_of(choice, with_articles=True)
    return len(forms) == 1 and (forms[0] in _COMMON or (len(forms[0]) == 1 and forms[0].isalpha()))


def mentions(text: str, choices: Sequence[str]) -> list[Mention]:
    """Where choices stand in a text, in its order. A choice within a longer one ("York" in "New York") is not there."""
    found: list[Mention] = []
    all_words = words_of(text)
    for with_articles in (True, False):
        words = [(i, w) for i, w in enumerate(all_words) if with_articles or w.form not in _ARTICLES]
        forms = [word.form for _, word in words]
        for choice, wanted in enumerate(forms_of(choice, with_articles=with_articles) for choice in choices):
            size = len(wanted)
            for at in range(len(forms) - size + 1) if size else ():
                if forms[at] == wanted[0] and tuple(forms[at : at + size]) == wanted:
                    found.append(
                        Mention(choice, words[at][0], words[at][1].start, words[at + size - 1][1].end)
                    )
    kept: list[Mention] = []
    for mention in sorted(found, key=lambda m: (m.start - m.end, m.start)):
        if all(mention.end <= other.start or mention.start >= other.end for other in kept):
            kept.append(mention)
    return sorted((m for m in kept if not _is_joined(text, m)), key=lambda m: m.start)


def _is_joined(text: str, mention: Mention) -> bool:
    """Whether a hyphen makes it part of another word or number: "non-positive", "insulin-like", "-5"."""
    before, after = text[max(mention.start - 2, 0) : mention.start], text[mention.end : mention.end + 2]
    is_minus = before.endswith("-") and text[mention.start].isdigit()
    return is_minus or re.search(r"\w-$", before) is not None or re.match(r"-\w", after) is not None


def is_number(choice: str) -> bool:
    """Whether a choice is a bare number."""
    forms = forms_of(choice, with_articles=True)
    return len(forms) == 1 and forms[0][0].isdigit()
