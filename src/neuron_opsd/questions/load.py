"""Files of unlabelled questions -> `Question` records, de-duplicated and split into train and test.

The split is by a hash of each question's content and `questions.seed`. Whether a question is trained on
depends on nothing else: not on the order of the file, not on the other questions, not on its id.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from neuron_opsd.config import ALL_DOMAINS, Config, QuestionSettings
from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.questions.read import read_questions
from neuron_opsd.records import Question
from neuron_opsd.text.content import content_id

__all__ = ["content_id", "load_questions", "read_questions"]

log = logging.getLogger(__name__)

_ITEMS_SHOWN = 10


def load_questions(settings: QuestionSettings) -> list[Question]:
    """Read the pool and the cross-domain files. Return the train questions, then the test questions.

    In-domain questions (those of `settings.domain`, or all of `settings.path`) are split by `test_fraction`.
    The other domains of the file and all of `cross_paths` are evaluated only. Equal content is kept once: the
    pool's first, then the other domains', then the cross files'. Each split is in hash order, domain by domain.

    Raises:
        ConfigError: the file has several domains, and no setting says which to train on.
        DataError: a file that cannot be used, an id with two contents, an unknown domain, an empty split.
    """
    in_domain, others = _divide_by_domain(_read(settings.path, settings), settings)
    cross = {path: _read(path, settings) for path in settings.cross_paths}
    _check_ids_across_files({settings.path: [*in_domain, *others]} | cross)
    pool = _drop_duplicates(in_domain, where=settings.path, seen={})
    trained = domains_of(pool)
    if settings.domain is None and len(trained) > 1:
        raise ConfigError(
            f"{settings.path} holds {len(trained)} domains ({_shorten(trained)}). Train on one: "
            f"questions.domain={trained[0]}, and the others become cross-domain sets. Or train on each: "
            f"questions.domain={ALL_DOMAINS}."
        )
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
    train = _cap_each_domain(
        train, settings.seed, limit=settings.max_train, name="questions.max_train", first=trained
    )
    test = _cap_each_domain(
        test, settings.seed, limit=settings.max_test, name="questions.max_test", first=trained
    )
    _log_counts(train, test)
    return train + test


def load_general_questions(
    paths: Sequence[str], *, max_questions: int, reading: QuestionSettings, run: Sequence[Question]
) -> list[Question]:
    """Questions of general knowledge, evaluated only. Those of the run are left out, and the first by hash order kept.

    Raises:
        DataError: as for any question file, or a file that adds no question.
    """
    files = {path: _read(path, reading) for path in paths}
    _check_ids_across_files(files)
    kept: list[Question] = []
    for path, questions in files.items():
        new = _drop_duplicates(questions, where=path, seen=_contents([*run, *kept]))
        if not new:
            raise DataError(f"{path} (evaluation.general_paths) adds no question to those of the run.")
        capped = _first_by_hash(new, reading.seed, limit=max_questions, name="evaluation.max_general")
        kept += [replace(question, split="test") for question in capped]
    return kept


def load_other_questions(path: str, *, reading: QuestionSettings, run: Sequence[Question]) -> list[Question]:
    """Questions of another domain that only demonstrate. Those of the run are left out.

    Raises:
        DataError: as for any question file, or a file that adds no question.
    """
    questions = _read(path, reading)
    _check_ids_across_files({"the run": list(run), path: questions})
    kept = _drop_duplicates(questions, where=path, seen=_contents(run))
    if not kept:
        raise DataError(f"{path} (contexts.other_path) adds no question to those of the run.")
    return kept


def _read(path: str, settings: QuestionSettings) -> list[Question]:
    return read_questions(path, fields=settings.fields, max_bad_fraction=settings.max_bad_fraction)


def _shorten(items: Sequence[str]) -> str:
    more = f" and {len(items) - _ITEMS_SHOWN} more" if len(items) > _ITEMS_SHOWN else ""
    return ", ".join(items[:_ITEMS_SHOWN]) + more


def _check_ids_across_files(files: dict[str, list[Question]]) -> None:
    first: dict[str, tuple[str, str]] = {}
    for path, questions in files.items():
        for question in questions:
            content = content_id(question.question, question.choices)
            known, place = first.setdefault(question.question_id, (content, path))
            if known != content:
                raise DataError(
                    f"{path}: question_id {question.question_id!r} already names another question, in {place}. Make "
                    "ids unique, or do without (then the content makes them): questions.fields={question_id: null}"
                )


def _divide_by_domain(
    questions: list[Question], settings: QuestionSettings
) -> tuple[list[Question], list[Question]]:
    known = domains_of(questions)
    if settings.domain is None or (settings.domain == ALL_DOMAINS and ALL_DOMAINS not in known):
        return questions, []
    if settings.domain not in known:
        raise DataError(
            f"questions.domain is '{settings.domain}', but {settings.path} has only: {', '.join(known)}. "
            f"Name one of them, or {ALL_DOMAINS} to train on each."
        )
    if settings.domain == ALL_DOMAINS and len(known) > 1:
        log.warning(
            "questions.domain=%s: %s has a domain of that name, and it alone is trained on. Rename it to train on "
            "every domain.",
            ALL_DOMAINS, settings.path,
        )  # fmt: skip
    inside = [question for question in questions if question.domain == settings.domain]
    return inside, [question for question in questions if question.domain != settings.domain]


def domains_of(questions: Iterable[Question]) -> list[str]:
    """Names of the domains, sorted."""
    return sorted({question.domain for question in questions})


def _contents(questions: Iterable[Question]) -> dict[str, Question]:
    return {content_id(question.question, question.choices): question for question in questions}


def _drop_duplicates(
    questions: Iterable[Question], *, where: str, seen: dict[str, Question]
) -> list[Question]:
    """Keep the first of equal content, here and among those `seen` before. Log what went and why."""
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
        counts = Counter(question.domain for question in part)
        for domain, number in Counter(question.domain for question in pool).items():
            if needed and not counts[domain]:
                raise DataError(
                    f"None of the {number} in-domain questions of {settings.path} (domain {domain}) falls into the "
                    f"{name} split (questions.test_fraction is {settings.test_fraction}, questions.seed "
                    f"{settings.seed}). Add questions, or change test_fraction"
                    + (" (0 holds none out)." if name == "test" else ".")
                )
    return train, test


def _first_by_hash(questions: list[Question], seed: int, *, limit: int | None, name: str) -> list[Question]:
    ordered = sorted(questions, key=lambda question: _hash_place(question, seed))
    if limit is not None and len(ordered) > limit:
        log.info("%s: kept %d of %d questions of %s", name, limit, len(ordered), ordered[0].domain)
    return ordered[:limit]


def _cap_each_domain(
    questions: list[Question], seed: int, *, limit: int | None, name: str, first: Sequence[str]
) -> list[Question]:
    """The questions by domain, in-domain first, each domain in hash order and at most `limit` long."""
    capped: list[Question] = []
    for domain in sorted(domains_of(questions), key=lambda name: name not in first):
        inside = [question for question in questions if question.domain == domain]
        capped += _first_by_hash(inside, seed, limit=limit, name=name)
    return capped


def _log_counts(train: Sequence[Question], test: Sequence[Question]) -> None:
    for where, questions in (("in the pool", train), ("held out or of other domains", test)):
        counts = Counter(question.domain for question in questions)
        listed = ", ".join(f"{domain} {count}" for domain, count in sorted(counts.items()))
        log.info("questions: %d %s (%s)", len(questions), where, listed or "none")


def test_questions(questions: Sequence[Question]) -> list[Question]:
    """Held-out questions by domain and id: runs that train on different domains ask them alike and share answers."""
    asked = [question for question in questions if question.split == "test"]
    return sorted(asked, key=lambda question: (question.domain, question.question_id))


def general_questions(config: Config, run: Sequence[Question]) -> list[Question]:
    """The questions of `evaluation.general_paths` that are not in the run."""
    settings = config.evaluation
    return load_general_questions(
        settings.general_paths, max_questions=settings.max_general, reading=config.questions, run=run
    )


def other_questions(config: Config, run: Sequence[Question]) -> list[Question]:
    """The questions of another domain that demonstrate (`contexts.other_path`), those of the run left out.

    Raises:
        ConfigError: they are asked for, and no file is named.
    """
    if config.contexts.retrieval != "other_domain":
        return []
    if config.contexts.other_path is None:
        raise ConfigError(
            "contexts.retrieval is other_domain, which needs contexts.other_path: a question file of another domain."
        )
    return load_other_questions(config.contexts.other_path, reading=config.questions, run=run)
