"""Stage 1: files of unlabelled questions -> `Question` records, de-duplicated and split into train and test.

Fields of a row: `question` (required); `choices`, a list of 2 to 26 strings (in CSV a JSON list), or
one column a choice: choice_a, choice_b, ... (also choice_1.., option_a.., or A, B, ...); none for a free-form
question; `question_id` (default: `content_id`); `domain` (default: the file's name without its suffix and
without ".questions"); `system`. Answers are dropped while reading (`read.py`).

The split is by a hash of each question's content and `questions.seed`. Whether a question is trained on
depends on nothing else: not on the order of the file, not on the other questions, not on its id.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuron_opsd.config import QuestionSettings
from neuron_opsd.errors import DataError
from neuron_opsd.questions.read import SUFFIXES, Row, choice_position, read_rows
from neuron_opsd.records import Question
from neuron_opsd.text.content import content_id, normalise

__all__ = ["content_id", "load_questions", "read_questions"]

log = logging.getLogger(__name__)

MAX_CHOICES = 26  # as many as there are letters to answer with
_ITEMS_SHOWN = 10


def load_questions(settings: QuestionSettings) -> list[Question]:
    """Read the pool and the cross-domain files; return the train questions, then the test questions.

    In-domain questions (all of `settings.path`, or those of `settings.domain`) are split by `test_fraction`.
    The other domains of the file and all of `cross_paths` are evaluated only. Equal content is kept once: the
    pool's first, then the other domains', then the cross files'. Each split is in hash order, test questions
    domain by domain.

    Raises:
        DataError: a file that cannot be used, an id with two contents, an unknown domain, an empty split.
    """
    in_domain, others = _divide_by_domain(read_questions(settings.path), settings)
    cross = {path: read_questions(path) for path in settings.cross_paths}
    _check_ids_across_files({settings.path: [*in_domain, *others]} | cross)
    pool = _drop_duplicates(in_domain, where=settings.path, seen={})
    test_only = _drop_duplicates(others, where=f"the other domains of {settings.path}", seen=_contents(pool))
    for path, questions in cross.items():
        new = _drop_duplicates(questions, where=path, seen=_contents([*pool, *test_only]))
        if not new:
            raise DataError(
                f"{path} adds no question: all are in {settings.path} or in an earlier cross file."
            )
        test_only += new
    train, test = _split_pool(pool, settings)
    test += [replace(question, split="test") for question in test_only]
    train = _first_by_hash(train, settings.seed, limit=settings.max_train, name="questions.max_train")
    test = _cap_each_domain(test, settings, first={question.domain for question in pool})
    _log_counts(train, test)
    return train + test


def load_general_questions(
    paths: Sequence[str], *, max_questions: int, seed: int, run: Sequence[Question]
) -> list[Question]:
    """Questions of general knowledge, evaluated only: those of the run itself are left out; the first by hash order.

    Raises:
        DataError: as for any question file; or a file that adds no question.
    """
    files = {path: read_questions(path) for path in paths}
    _check_ids_across_files(files)
    kept: list[Question] = []
    for path, questions in files.items():
        new = _drop_duplicates(questions, where=path, seen=_contents([*run, *kept]))
        if not new:
            raise DataError(f"{path} (evaluation.general_paths) adds no question to those of the run.")
        capped = _first_by_hash(new, seed, limit=max_questions, name="evaluation.max_general")
        kept += [replace(question, split="test") for question in capped]
    return kept


def load_other_questions(path: str, *, run: Sequence[Question]) -> list[Question]:
    """Questions of another domain that only demonstrate; those of the run are left out.

    Raises:
        DataError: as for any question file; or a file that adds no question.
    """
    questions = read_questions(path)
    _check_ids_across_files({"the run": list(run), path: questions})
    kept = _drop_duplicates(questions, where=path, seen=_contents(run))
    if not kept:
        raise DataError(f"{path} (contexts.other_path) adds no question to those of the run.")
    return kept


def read_questions(path: str) -> list[Question]:
    """Read and check every question of one file or data set, in its order, duplicate questions included.

    Raises:
        DataError: with file and line, what is wrong, and what is allowed.
    """
    rows = read_rows(path)
    domain = _name_domain(path)
    questions = [_make_question(row, default_domain=domain) for row in rows]
    _check_ids(questions, [row.where for row in rows])
    return _drop_repeated_choices(questions, rows, path)


def _name_domain(path: str) -> str:
    """The stem: biology of data/biology.questions.jsonl, or name of the hub's owner/name:config."""
    if Path(path).suffix.lower() in SUFFIXES:
        return Path(path).stem.removesuffix(".questions")
    return path.split(":")[0].rsplit("/", 1)[-1]


def _make_question(row: Row, *, default_domain: str) -> Question:
    where, values = row
    if values.get("question") is None:
        raise DataError(f"{where} has no 'question'. It has: {', '.join(values) or 'nothing that is read'}.")
    question = _check_text(values["question"], "question", where)
    choices = _check_choices(_gather_choices(values, where), where)
    return Question(
        question_id=_check_id(values.get("question_id"), where) or content_id(question, choices),
        domain=_optional_text(values, "domain", where) or default_domain,
        question=question,
        choices=choices,
        system=_optional_text(values, "system", where),
    )


def _check_text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {_show(value)} ({type(value).__name__}); it must be a string.")
    if not value.strip():
        raise DataError(f"{where}: {name} is empty. Write its text, or leave out the row.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise DataError(
            f"{where}: {name} holds half a surrogate pair (such as \\ud83d), which is no character."
        )
    return value


def _optional_text(values: dict[str, Any], name: str, where: str) -> str | None:
    return None if values.get(name) is None else _check_text(values[name], name, where)


def _check_id(value: Any, where: str) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value is None else _check_text(value, "question_id", where)


def _gather_choices(values: dict[str, Any], where: str) -> Any:
    """The `choices` column, or the one-choice columns in order; trailing empty ones do not count."""
    columns = {position: name for name in values if (position := choice_position(name)) is not None}
    filled = [position for position, name in columns.items() if values[name] is not None]
    if values.get("choices") is not None and filled:
        raise DataError(f"{where} has both choices and {columns[filled[0]]}. Use one way to write choices.")
    if not filled:
        return values.get("choices")
    if sorted(filled) != list(range(len(filled))):
        names = ", ".join(columns[position] for position in sorted(filled))
        raise DataError(f"{where} fills the choice columns {names}, with a gap or without the first.")
    return [values[columns[position]] for position in sorted(filled)]


def _check_choices(value: Any, where: str) -> tuple[str, ...]:
    if (
        isinstance(value, dict) and "text" in value
    ):  # {"text": [...], "label": ["A", ...]}, as in ARC on the hub
        value = value["text"]
    if value is None or value == []:
        return ()
    if not isinstance(value, list):
        raise DataError(
            f"{where}: choices is {_show(value)} ({type(value).__name__}); it must be a list of strings."
        )
    choices = tuple(_check_text(choice, f"choices[{k}]", where) for k, choice in enumerate(value))
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise DataError(
            f"{where} has {len(choices)} choice(s); write 2 to {MAX_CHOICES}, or none (a free-form question)."
        )
    return choices


def _drop_repeated_choices(questions: list[Question], rows: list[Row], path: str) -> list[Question]:
    """Drop, with a notice, questions that offer one choice twice: no letter can be their one right answer.

    Published sets hold a few (6 of 720 in SciKnowEval's physics), so they do not stop a run.
    """
    is_sound = [len(set(map(normalise, question.choices))) == len(question.choices) for question in questions]
    bad = [row.where for row, sound in zip(rows, is_sound, strict=True) if not sound]
    if len(bad) == len(rows):
        raise DataError(
            f"{bad[0]} offers a choice twice, as does every question of {path}; choices must differ."
        )
    if bad:
        log.warning("%s: dropped %d questions that offer a choice twice: %s", path, len(bad), _shorten(bad))
    return [question for question, sound in zip(questions, is_sound, strict=True) if sound]


def _shorten(items: Sequence[str]) -> str:
    more = f" and {len(items) - _ITEMS_SHOWN} more" if len(items) > _ITEMS_SHOWN else ""
    return ", ".join(items[:_ITEMS_SHOWN]) + more


def _show(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_ids(questions: Sequence[Question], places: Sequence[str]) -> None:
    first: dict[str, tuple[str, str]] = {}
    for question, where in zip(questions, places, strict=True):
        content = content_id(question.question, question.choices)
        known, place = first.setdefault(question.question_id, (content, where))
        if known != content:
            raise DataError(
                f"{where}: question_id {question.question_id!r} already names another question, at {place}. "
                "Make ids unique, or leave them out (then the content makes them)."
            )


def _check_ids_across_files(files: dict[str, list[Question]]) -> None:
    together = [(question, path) for path, questions in files.items() for question in questions]
    _check_ids([question for question, _ in together], [path for _, path in together])


def _divide_by_domain(
    questions: list[Question], settings: QuestionSettings
) -> tuple[list[Question], list[Question]]:
    if settings.domain is None:
        return questions, []
    known = sorted({question.domain for question in questions})
    if settings.domain not in known:
        raise DataError(
            f"questions.domain is '{settings.domain}', but {settings.path} has only: {', '.join(known)}."
        )
    inside = [question for question in questions if question.domain == settings.domain]
    return inside, [question for question in questions if question.domain != settings.domain]


def _contents(questions: Iterable[Question]) -> dict[str, Question]:
    return {content_id(question.question, question.choices): question for question in questions}


def _drop_duplicates(
    questions: Iterable[Question], *, where: str, seen: dict[str, Question]
) -> list[Question]:
    """Keep the first of equal content, here and among those `seen` before; log what went and why."""
    seen = dict(seen)
    kept: list[Question] = []
    dropped: list[str] = []
    for question in questions:
        first = seen.setdefault(content_id(question.question, question.choices), question)
        if first is question:
            kept.append(question)
        else:
            dropped.append(f"{question.question_id} (as {first.question_id} of {first.domain})")
    if dropped:
        log.warning("%s: dropped %d questions of equal content: %s", where, len(dropped), _shorten(dropped))
        log.debug("%s: all dropped: %s", where, ", ".join(dropped))
    return kept


def _hash_place(question: Question, seed: int) -> float:
    """A number in [0, 1) made of the content and the seed alone."""
    key = f"{seed}:{content_id(question.question, question.choices)}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48


def _split_pool(pool: list[Question], settings: QuestionSettings) -> tuple[list[Question], list[Question]]:
    is_test = [_hash_place(question, settings.seed) < settings.test_fraction for question in pool]
    train = [
        replace(question, split="train") for question, held in zip(pool, is_test, strict=True) if not held
    ]
    test = [replace(question, split="test") for question, held in zip(pool, is_test, strict=True) if held]
    for name, part, needed in (("train", train, True), ("test", test, settings.test_fraction > 0)):
        if needed and not part:
            raise DataError(
                f"None of the {len(pool)} in-domain questions of {settings.path} falls into the {name} split "
                f"(questions.test_fraction is {settings.test_fraction}, questions.seed {settings.seed}). "
                "Add questions, or change test_fraction" + (" (0 holds none out)." if name == "test" else ".")
            )
    return train, test


def _first_by_hash(questions: list[Question], seed: int, *, limit: int | None, name: str) -> list[Question]:
    ordered = sorted(questions, key=lambda question: _hash_place(question, seed))
    if limit is not None and len(ordered) > limit:
        log.info("%s: kept %d of %d questions of %s", name, limit, len(ordered), ordered[0].domain)
    return ordered[:limit]


def _cap_each_domain(test: list[Question], settings: QuestionSettings, *, first: set[str]) -> list[Question]:
    """Test questions by domain, in-domain first, each domain in hash order and at most `max_test` long."""
    capped: list[Question] = []
    for domain in sorted({question.domain for question in test}, key=lambda name: (name not in first, name)):
        inside = [question for question in test if question.domain == domain]
        capped += _first_by_hash(inside, settings.seed, limit=settings.max_test, name="questions.max_test")
    return capped


def _log_counts(train: Sequence[Question], test: Sequence[Question]) -> None:
    for name, questions in (("train", train), ("test", test)):
        counts = Counter(question.domain for question in questions)
        listed = ", ".join(f"{domain} {count}" for domain, count in sorted(counts.items()))
        log.info("%s: %d questions (%s)", name, len(questions), listed or "none")
