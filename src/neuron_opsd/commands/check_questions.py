"""`neuron-opsd questions --check FILE`: what a run would read, in seconds and without a model's weights.

It prints what a run would only log, and ends as a run would: with exit status 2 where the run would stop.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from neuron_opsd.config import Config
from neuron_opsd.early_checks import check_early
from neuron_opsd.early_checks.questions import check_votes
from neuron_opsd.errors import NeuronOpsdError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_tokenizer
from neuron_opsd.questions.answer_counts import count_answers, letters_alone
from neuron_opsd.questions.duplicates import near_duplicates, template_key
from neuron_opsd.questions.load import load_questions
from neuron_opsd.questions.read import QuestionFile, describe_columns, read_file
from neuron_opsd.records import Question
from neuron_opsd.text.content import content_id
from neuron_opsd.text.prompts import student_messages

NUM_SHOWN = 3
NUM_NAMED = 10  # rows that are left out
NUM_COMPARED = 2000  # questions among which near-duplicates are looked for, so that this takes seconds
MANY_ALIKE = 0.2  # of the questions: so many of one template are worth a warning


def check_questions(config: Config, *, with_model: bool) -> Iterator[str]:
    """What a run would read from the files of these settings, line by line.

    Args:
        config: The settings. Without a model its name is not looked at.
        with_model: Whether a tokenizer is loaded, to render the questions and measure them.

    Raises:
        NeuronOpsdError: what a run would stop for.
    """
    settings = config.questions
    read: list[Question] = []
    for path in (settings.path, *settings.cross_paths):
        file = read_file(path, fields=settings.fields, max_bad_fraction=settings.max_bad_fraction)
        yield from _describe(file)
        read += file.questions
    try:
        with _without_notices():  # they are told above
            questions = check_early(config) if with_model else load_questions(settings)
            check_votes(config, questions)
    except NeuronOpsdError:
        # A first trial often has too few questions to split. How they are read can be seen all the same.
        yield from _describe_in_spite(read, config)
        raise
    yield from _describe_split(questions)
    yield from _describe_likeness(questions, config.contexts.near_duplicate_threshold)
    if config.evaluation.answers:
        yield from _describe_answers(config, questions)
    yield from _show_some(questions, config, with_model=with_model)


def _describe_in_spite(questions: Sequence[Question], config: Config) -> Iterator[str]:
    """The answers and the first questions of a file that a run would not take."""
    if config.evaluation.answers:
        with suppress(NeuronOpsdError):  # the first problem is the one to tell
            yield from _describe_answers(config, questions)
    yield from _show_some(questions, config, with_model=False)


@contextmanager
def _without_notices() -> Iterator[None]:
    """Files are read again here. What that tells is known."""
    logger = logging.getLogger("neuron_opsd")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _describe(file: QuestionFile) -> Iterator[str]:
    yield f"{file.path}: {len(file.questions):,} questions of {file.num_rows:,} rows"
    yield f"  read:        {describe_columns(file.columns)}"
    for name, part in file.absent.items():
        yield f"  warning:     no column {name!r}, which questions.fields names for the {part}"
    if file.unread:
        yield f"  not read:    {', '.join(file.unread)}"
    if file.answers:
        yield f"  answers:     {', '.join(file.answers)} (dropped unread, because only evaluation may read them)"
    sizes = Counter(len(question.choices) for question in file.questions)
    shapes = [
        f"{count:,} with {size} choices" if size else f"{count:,} free-form"
        for size, count in sorted(sizes.items())
    ]
    yield f"  choices:     {', '.join(shapes)}"
    yield from (f"  noticed:     {count:,} {what}" for what, count in file.changes.items() if count)
    yield from (f"  left out:    {row.where} {row.reason}" for row in file.left_out[:NUM_NAMED])
    if len(file.left_out) > NUM_NAMED:
        yield f"  left out:    ... and {len(file.left_out) - NUM_NAMED:,} more"
    contents = Counter(content_id(question.question, question.choices) for question in file.questions)
    if repeated := sum(count - 1 for count in contents.values()):
        yield f"  duplicates:  {repeated:,} questions of equal content are dropped"


def _describe_split(questions: Sequence[Question]) -> Iterator[str]:
    for split, what in (("train", "pool"), ("test", "held out")):
        counts = Counter(question.domain for question in questions if question.split == split)
        listed = ", ".join(f"{domain} {count:,}" for domain, count in sorted(counts.items())) or "none"
        yield f"{what + ':':<13}{counts.total():,} questions ({listed})"


def _describe_likeness(questions: Sequence[Question], threshold: float) -> Iterator[str]:
    """Near-duplicates and templates: questions that may tell each other's answers."""
    compared = questions[:NUM_COMPARED]
    pairs = near_duplicates(compared, threshold=threshold)
    crossing = sum(compared[i].split != compared[j].split for i, j in pairs)
    among = f" among the first {len(compared):,}" if len(compared) < len(questions) else ""
    yield f"{'alike:':<13}{len(pairs):,} near-duplicate pairs{among}, {crossing:,} of them across pool and held-out"
    key, count = Counter(template_key(question.question) for question in questions).most_common(1)[0]
    if count > MANY_ALIKE * len(questions) and count > 1:
        yield f"{'warning:':<13}{count:,} questions begin alike ({key} ...). What is learnt may be their template"


def _describe_answers(config: Config, questions: Sequence[Question]) -> Iterator[str]:
    counts = count_answers(config.evaluation.answers, questions, config.questions, is_for_people=True)
    num_test = sum(question.split == "test" for question in questions)
    yield (
        f"{'answers:':<13}{counts.num_questions:,} questions answered, {counts.num_test_questions:,} of {num_test:,} "
        f"held out. {counts.num_rows:,} rows, {counts.num_other:,} to other questions, {counts.num_blank:,} blank"
    )
    if problem := letters_alone(counts, config.evaluation.answers):
        yield f"{'warning:':<13}{problem}"
    for where, reason in list(zip(counts.left_out, counts.reasons, strict=True))[:NUM_NAMED]:
        yield f"  left out:    {where} {reason}"
    if total := sum(counts.balance.values()):
        shares = ", ".join(f"{letter} {count / total:.0%}" for letter, count in counts.balance.items())
        yield f"{'balance:':<13}{shares}"


def _show_some(questions: Sequence[Question], config: Config, *, with_model: bool) -> Iterator[str]:
    """The first questions as the model will read them. Without a model, the messages alone."""
    encoder = ChatEncoder.of(config.model, load_tokenizer(config.model)) if with_model else None
    for question in questions[:NUM_SHOWN]:
        messages = student_messages(
            question,
            choice_order=tuple(range(len(question.choices))),
            answer_format=config.prompts.answer_format,
            system=config.prompts.system,
        )
        text = "\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
        length = ""
        if encoder is not None:
            ids = encoder.encode(messages)
            text, length = encoder.decode(ids), f", {len(ids):,} tokens"
        yield f"\n=== question {question.question_id} of {question.domain}{length} ===\n{text}"
