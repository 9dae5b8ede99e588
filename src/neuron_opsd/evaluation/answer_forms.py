"""One answer as written -> the choice it names: a letter, "B. its text", a text, or a number once counting is known."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from neuron_opsd.records import Question
from neuron_opsd.tables.choices import Choices
from neuron_opsd.tables.rows import BadRowError, show
from neuron_opsd.text.answers import LETTERS, normalise_answer
from neuron_opsd.text.content import normalise

_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_LETTER_AND_TEXT = re.compile(r"\(?([A-Za-z])(?:[).:]|\s+-)\s*(.+)", re.DOTALL)
_SEVERAL = re.compile(r"\(?([A-Z])\)?(?:\s*(?:,|;|/|&|and)\s*\(?([A-Z])\)?)+")
_INDEX = re.compile(r"\d{1,2}")
AnswerBase = Literal[0, 1, "text"] | None  # `questions.answer_base`


class UnclearIndexError(BadRowError):
    """A number that names one choice if counted from 0, and another if counted from 1."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True, slots=True)
class Offered:
    """The choices of one question as a file lists them: texts, what it calls them, places among all that it lists."""

    texts: tuple[str, ...]
    marks: tuple[str, ...]
    places: tuple[int, ...]

    @classmethod
    def of_question(cls, question: Question) -> "Offered":
        """The choices as the question file lists them."""
        marks = question.letters or tuple(LETTERS[: len(question.choices)])
        places = tuple(LETTERS.index(mark) if mark in LETTERS else k for k, mark in enumerate(marks))
        return cls(question.choices, marks, places)

    @classmethod
    def of_row(cls, choices: Choices, question: Question) -> "Offered":
        """The choices as a row of the answer file lists them, perhaps in another order.

        Raises:
            BadRowError: these are not the choices of the question.
        """
        if sorted(map(normalise, choices.texts)) != sorted(map(normalise, question.choices)):
            raise BadRowError(
                f"its choices are not those of question '{question.question_id}', so its answer cannot be mapped. "
                "Remove the choices here, or use the file that the questions came from."
            )
        originals = {normalise(choice): choice for choice in question.choices}
        return cls(tuple(originals[normalise(text)] for text in choices.texts), choices.marks, choices.places)

    def names(self) -> str:
        """What an answer may say."""
        if all(mark.isdigit() for mark in self.marks):  # a number could be the text of a choice
            return ", ".join(LETTERS[place] for place in self.places)
        in_order = self.marks == tuple(LETTERS[: len(self.marks)])
        return f"{self.marks[0]} to {self.marks[-1]}" if in_order else ", ".join(self.marks)


def plain_answer(value: Any) -> str:
    """A cell as text: the only answer of a list, and 2 for 2.0.

    Raises:
        BadRowError: several answers, or no text at all.
    """
    if isinstance(value, list) and len(value) == 1:
        return plain_answer(value[0])
    if isinstance(value, list) and value:
        raise BadRowError(f"holds {len(value)} answers, {show(value)}. Only questions with one are scored.")
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        raise BadRowError(
            f"answer is {show(value)} ({type(value).__name__}). Write a letter or the answer's text."
        )
    return str(value).strip()


def choice_named(text: str, offered: Offered, *, is_number: bool, answer_base: AnswerBase) -> int:
    """Which of the choices offered an answer names.

    Args:
        text: The answer.
        offered: The choices.
        is_number: Whether the cell is a number, or of a file that cannot tell numbers from texts.
        answer_base: Where numbers count from, or `text` where they are choices' texts. None: not known.

    Raises:
        BadRowError: none, or several. Says what is allowed.
    """
    same_text = [i for i, choice in enumerate(offered.texts) if choice.strip() == text]
    own = text.upper()
    if own in offered.marks and not _is_latin(own) and same_text in ([], [offered.marks.index(own)]):
        return offered.marks.index(own)  # a file that numbers its choices, or has letters of another script
    if _INDEX.fullmatch(text):
        found = _choice_at(int(text), same_text, offered, is_number=is_number, answer_base=answer_base)
        if found is not None:
            return found
    letter, both = _LETTER.fullmatch(text), _LETTER_AND_TEXT.fullmatch(text)
    if letter and same_text and _by_letter(letter[1], offered) != same_text[0]:
        raise BadRowError(
            f"answer '{text}' is a letter and also the text of choice {offered.marks[same_text[0]]}. "
            "Write 'B. text of the choice'."
        )
    if letter and not same_text:
        return _checked_letter(letter[1], offered)
    if not same_text and _SEVERAL.fullmatch(text):
        raise BadRowError(
            f"answer {show(text)} names several letters. Only questions with one right choice are scored."
        )
    found = same_text or _similar_texts(text, offered.texts, has_letter=both is not None)
    if len(found) == 1:
        return found[0]
    if both and not found:
        return _letter_with_text(both[1], both[2], offered)
    problem = "is the text of several choices" if found else "is neither a letter nor a choice's text"
    raise BadRowError(f"answer {show(text)} {problem}. Write the letter: {offered.names()}.")


def _is_latin(mark: str) -> bool:
    return mark.isascii() and mark.isalpha()


def _choice_at(
    number: int, same_text: list[int], offered: Offered, *, is_number: bool, answer_base: AnswerBase
) -> int | None:
    """The choice at an index. None where the number can only be a text."""
    if answer_base == "text":
        return None
    by_base = {
        base: offered.places.index(number - base) for base in (0, 1) if number - base in offered.places
    }
    if answer_base is None:
        if not by_base or (same_text and not is_number):
            return None
        readings = ", ".join(f"from {base} it is {_shown(i, offered)}" for base, i in by_base.items())
        also = ", or the text of a choice" if same_text else ""
        raise UnclearIndexError(
            number, f"answer {number} could be an index counted from 0 or from 1{also}: {readings}."
        )
    if answer_base not in by_base:
        are_texts = " If numbers are choices' texts: questions.answer_base=text." if same_text else ""
        raise BadRowError(
            f"answer {number} is beyond the {len(offered.texts)} choices of its question, counted from {answer_base} "
            f"(questions.answer_base).{are_texts}"
        )
    return by_base[answer_base]


def _shown(index: int, offered: Offered) -> str:
    return f"{offered.marks[index]} ({_shorten(offered.texts[index], 30)})"


def _similar_texts(text: str, choices: tuple[str, ...], *, has_letter: bool) -> list[int]:
    """Choices with this text but for case, articles and punctuation. The "A." of "A. blue" is no article."""
    canonical = str.casefold if has_letter else normalise_answer
    return [i for i, choice in enumerate(choices) if canonical(choice.strip()) == canonical(text)]


def _by_letter(letter: str, offered: Offered) -> int | None:
    """The choice that a letter names: by the file's own letters, or by its place where the file has numbers."""
    if letter.upper() in offered.marks:
        return offered.marks.index(letter.upper())
    place = LETTERS.index(letter.upper())
    has_letters = all(map(_is_latin, offered.marks))
    return None if has_letters or place not in offered.places else offered.places.index(place)


def _checked_letter(letter: str, offered: Offered) -> int:
    index = _by_letter(letter, offered)
    if index is None:
        raise BadRowError(
            f"answer '{letter}' is beyond the {len(offered.texts)} choices of its question. Allowed are "
            f"{offered.names()}."
        )
    return index


def _letter_with_text(letter: str, text: str, offered: Offered) -> int:
    index = _checked_letter(letter, offered)
    if normalise_answer(offered.texts[index]) != normalise_answer(text):
        raise BadRowError(
            f"answer '{_shorten(f'{letter}. {text}')}' names choice {letter.upper()}, whose text is "
            f"'{_shorten(offered.texts[index])}'. Write the letter alone, or the letter with its own text."
        )
    return index


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
