"""The names of columns -> which column is which field of a question. Case, blanks and punctuation do not matter.

A name that is not known here is given by `questions.fields={question: stem, choices: options}`. `null` says that a
field is not read.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from neuron_opsd.errors import DataError
from neuron_opsd.tables.marked import ALPHABETS

Given = Mapping[str, str | Sequence[str] | None]

# The first name of a field that a table has is read.
NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "questionstem", "questiontext", "stem", "query", "prompt", "ctx"),
    "passage": ("passage", "article", "context"),
    "choices": (
        "choices",
        "options",
        "endings",
        "answerchoices",
        "answeroptions",
        "alternatives",
        "candidates",
    ),
    "question_id": ("questionid", "id", "qid"),
    "domain": ("domain",),
    "system": ("system",),
}

# One choice a column: choice_a, Option A, option1, opa, ending0, or a bare A.
_ONE_CHOICE = re.compile(r"(choice|option|opt|op|ending|alternative|)([a-z]|\d{1,2})")
# Columns that look so too, and may be choices, or answers of several people: only a setting can say.
_NUMBERED = re.compile(r"(.*\D)?([a-z]|\d{1,2})", re.DOTALL)

# Wrong choices by their names: Wrong 1, Incorrect Answer 2, distractor3, Falsche Antwort 1, distractors.
_WRONG = re.compile(
    r"(distra[ck]tor|distracteur|incorrect|wrong|falsche?|错误|干扰)(answer|choice|option|antwort|item|答案|选项|项)?"
    r"(s?)([a-z]|\d{1,2})?"
)
_SEVERAL_RIGHT = {"bestanswer", "correctanswers"}  # beside wrong answers: a free-form set, such as TruthfulQA

_ANSWER_STARTS = (
    *("answer", "gold", "label", "target", "correct", "solution", "explanation", "rationale", "groundtruth"),
    *("distractor", "incorrect", "cot", "lösung"),
)
_ANSWER_ENDS = ("answer", "answers", "label", "labels", "solution", "rationale", "explanation")
_ANSWER_NAMES = ("cop", "exp", "finaldecision", "iscorrect", "output", "response", "completion", "key")


def plain(name: str) -> str:
    """A name as it is compared: small letters and digits alone, and wide ones as the usual ones."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())


def names_a_question(name: str) -> bool:
    """Whether this is a known name of the column of questions."""
    return plain(name) in NAMES["question"]


def is_answer_column(name: str) -> bool:
    """Whether a column's name says that it holds answers, or reasons for them."""
    word = plain(name)
    if word in NAMES["choices"]:
        return False
    return (
        word.startswith(_ANSWER_STARTS)
        or word.endswith(_ANSWER_ENDS)
        or word in _ANSWER_NAMES
        or _is_wrong_choice(name)
    )


def _is_wrong_choice(name: str) -> bool:
    """Whether a column's name says that it holds a wrong choice. One "wrong answer" alone may be something else."""
    match = _WRONG.fullmatch(plain(name))
    return match is not None and bool(match[4] or match[3] or match[1].startswith("dist"))


def wrong_choices(names: Sequence[str]) -> tuple[str, ...]:
    """Columns of wrong choices, which stand apart from the right one."""
    if any(plain(name) in _SEVERAL_RIGHT for name in names):
        return ()
    return tuple(filter(_is_wrong_choice, names))


def right_apart(where: str, wrong: Sequence[str]) -> DataError:
    """The error of a table that names its wrong choices, and so tells the right one. It says how to write the table."""
    hold = "hold wrong choices by their names" if len(wrong) > 1 else "holds wrong choices by its name"
    return DataError(
        f"{where}: {', '.join(wrong)} {hold}, and the right one is in a column of its own, which only "
        "evaluation may read. A run must not see which choice is right, so these columns cannot be read as choices. "
        "Write all choices of a question into columns choice_a, choice_b, ..., in an order that does not give the "
        "right one away (such as by the alphabet), and the text of the right one into a column answer. For free-form "
        "questions: questions.fields={choices: null}"
    )


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of one table are read. `choices` is one column of all choices, or one for each choice."""

    question: str | None
    passage: str | None
    choices: tuple[str, ...]
    question_id: str | None
    domain: str | None
    system: str | None

    @property
    def read(self) -> set[str]:
        """Every column that is read."""
        single = (self.question, self.passage, self.question_id, self.domain, self.system)
        return {name for name in single if name is not None} | set(self.choices)


def find_columns(names: Sequence[str], fields: Given, *, where: str) -> Columns:
    """Which columns hold the fields of a question.

    Args:
        names: Of all columns of the table.
        fields: `questions.fields`. A name that the table lacks gives way to the known names.
        where: The table, for messages.

    Raises:
        DataError: two ways to write choices, a choice missing between others, or a setting that names an answer.
    """
    single = {
        field: next(iter(_named(field, names, fields, where)), None) for field in NAMES if field != "choices"
    }
    return Columns(choices=_choice_columns(names, fields, where), **single)


def absent_names(names: Sequence[str], fields: Given) -> dict[str, str]:
    """Name to field, of those that `questions.fields` gives to fields of the question and the table lacks.

    Of several files some may have other columns, so this is no error. It can be a misspelling all the same.
    """
    return {
        name: field
        for field in NAMES
        for name in _as_list(fields.get(field))
        if not _columns_called(name, names)
    }


def is_needed(names: Iterable[str], fields: Given) -> set[str]:
    """Names that `questions.fields` gives to fields of the question: these are read though they look like answers."""
    given = {plain(name) for field in NAMES for name in _as_list(fields.get(field))}
    return {name for name in names if plain(name) in given}


def _named(field: str, names: Sequence[str], fields: Given, where: str) -> list[str]:
    """The columns that a setting names, or the first of the known names that there is."""
    if field in fields and fields[field] is None:
        return []
    given = _as_list(fields.get(field))
    found = [column for name in given for column in _columns_called(name, names)[:1]]
    _refuse_answers(field, found)
    if given and len(found) == len(given):
        return found
    known = [column for name in NAMES[field] for column in _columns_called(name, names)]
    one = [column for column in known if plain(column) == plain(known[0])]
    if len(one) > 1:
        raise DataError(
            f"{where} has the columns {', '.join(map(repr, one))}. Say which one is the {field}: "
            f"questions.fields={{{field}: {one[0]}}}"
        )
    return known[:1]


def _columns_called(name: str, names: Sequence[str]) -> list[str]:
    return [name] if name in names else [column for column in names if plain(column) == plain(name)]


def _as_list(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _refuse_answers(field: str, found: Sequence[str]) -> None:
    """A setting may call columns such as answer_a and answer_b choices, but no answer a question."""
    is_family = field == "choices" and len(found) > 1
    if answers := [name for name in found if is_answer_column(name) and not is_family]:
        raise DataError(
            f"questions.fields names {answers[0]!r} as the {field}, but a column of that name holds answers, which "
            "only evaluation may read. Rename the column if it holds none."
        )


def _refuse_telling_names(found: Sequence[str], where: str) -> None:
    """Refuse columns of choices of which a name tells the right one, such as Correct answer beside Wrong 1."""
    if wrong := [name for name in found if _is_wrong_choice(name)]:
        raise right_apart(where, wrong)
    right = [name for name in found if is_answer_column(name)]
    if len(found) > 1 and len(right) == 1:
        raise DataError(
            f"{where}: questions.fields.choices names {', '.join(found)}, of which {right[0]!r} holds the answer by "
            "its name. A run must not see which choice is right. Write all choices into columns choice_a, choice_b, "
            "..., in an order that does not give it away. Rename the column if it holds no answer."
        )


def _choice_columns(names: Sequence[str], fields: Given, where: str) -> tuple[str, ...]:
    whole = _named("choices", names, fields, where)
    _refuse_telling_names(whole, where)
    if len(whole) > 1 or fields.get("choices") or "choices" in fields:
        return tuple(whole)
    whole = [column for column in names if plain(column) in NAMES["choices"]]
    families = list(_families(names, _ONE_CHOICE, where).values())
    if not families and len(whole) < 2:
        return tuple(whole)
    if len(families) + len(whole) > 1:
        ways = [*whole, *(f"[{', '.join(family)}]" for family in families)]
        raise DataError(
            f"{where} has several columns that may hold the choices: {' or '.join(ways)}. Say which: "
            f"questions.fields={{choices: {ways[0]}}}"
        )
    return families[0]


def _families(names: Sequence[str], pattern: re.Pattern[str], where: str) -> dict[str, tuple[str, ...]]:
    """Columns whose names differ in a last letter or number alone, in its order. One column is no family."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        if (match := pattern.fullmatch(plain(name))) and not (match[1] in ("", None) and match[2].isdigit()):
            kind = "number" if match[2].isdigit() else "letter"
            found.setdefault(f"{match[1]} {kind}", {})[_place(match[2])] = name
    whole = {prefix: places for prefix, places in found.items() if len(places) > 1}
    for places in whole.values():
        first = min(places)
        if first > 1 or sorted(places) != list(range(first, first + len(places))):
            columns = ", ".join(places[place] for place in sorted(places))
            raise DataError(
                f"{where} has the choice columns {columns}, with a gap or without the first. Rename them, or name "
                f"them all: questions.fields={{choices: [{columns}]}}"
            )
    return {prefix: tuple(places[place] for place in sorted(places)) for prefix, places in whole.items()}


def _place(mark: str) -> int:
    return int(mark) if mark.isdigit() else ord(mark) - ord("a")


def _parted(word: str) -> tuple[str, int] | None:
    """What names of one family share, and the place of one among them: Antwort B, answer2, 选项乙, or Б alone."""
    if match := _NUMBERED.fullmatch(word):
        return (match[1], _place(match[2])) if match[1] else None
    last = word[-1:].upper()
    alphabet = next((letters for letters in ALPHABETS if last and last in letters), None)
    return None if alphabet is None else (f"{word[:-1]} {alphabet}", alphabet.index(last))


def own_marks(names: Sequence[str]) -> tuple[str, ...]:
    """The letters of another script in which the names of choice columns end: 甲 and 乙, as answers name them."""
    marks = tuple(plain(name)[-1:].upper() for name in names)
    return marks if any(marks == tuple(letters[: len(marks)]) for letters in ALPHABETS) else ()


def look_like_choices(names: Sequence[str]) -> tuple[str, ...]:
    """Columns that may be choices by their names, such as Antwort A and Antwort B, though no known name says so."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        if parted := _parted(plain(name)):
            found.setdefault(parted[0], {})[parted[1]] = name
    for places in found.values():
        first, in_order = min(places), [places[place] for place in sorted(places)]
        # Two numbered columns are more often two sentences than two choices.
        enough = 3 if plain(in_order[-1])[-1].isdigit() else 2
        if len(places) >= enough and first <= 1 and sorted(places) == list(range(first, first + len(places))):
            return tuple(in_order)
    return ()
