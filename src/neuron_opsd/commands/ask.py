"""One question to the base and the trained model of a run, as its evaluation asks: samples, votes, probabilities.

for answers in ask(Speakers(RunFolder.open("runs/demo")), "Is water wet?", ("yes", "no")):
    print(answers.role, answers.majority, answers.vote_share)
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from neuron_opsd.commands.speakers import Speakers
from neuron_opsd.config import EvaluationSettings
from neuron_opsd.engines.base import sampling_of
from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.evaluation.exact import answer_exactly, exact_options
from neuron_opsd.evaluation.kinds import HARDLY_OPTIONS, MIN_OPTION_MASS
from neuron_opsd.evaluation.options import score_options
from neuron_opsd.evaluation.samples import orders_asked
from neuron_opsd.evaluation.votes import count_votes
from neuron_opsd.records import OptionScores, Question, Rollout
from neuron_opsd.rollouts.sample import sample_rollouts
from neuron_opsd.tables.cells import check_text
from neuron_opsd.tables.choices import MAX_CHOICES, read_choices
from neuron_opsd.tables.rows import BadRowError
from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.content import content_id
from neuron_opsd.text.thinking import strip_thinking

DOMAIN = "asked"
UNREAD = "no readable answer"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `thinking` is what stands before its text, empty where it does not think."""

    thinking: str
    text: str
    answer: str | None
    is_cut: bool
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model answers to one question.

    `shares` has every answer with its share of the samples (exact: its probability), most frequent first. Choices are
    named by their letters. None stands for replies without a readable answer.
    """

    role: str
    is_exact: bool
    majority: str | None
    vote_share: float
    shares: dict[str | None, float]
    option_probabilities: dict[str, float] | None  # of the choices, None where they were not scored
    option_mass: float | None
    replies: tuple[Reply, ...]

    def as_tree(self) -> dict[str, Any]:
        """The same for JSON."""
        shares = [{"answer": answer, "share": share} for answer, share in self.shares.items()]
        return dataclasses.asdict(self) | {"shares": shares}


def make_question(text: str, choices: Sequence[str] = ()) -> Question:
    """A question as a run would read it from a file.

    Raises:
        DataError: an empty question, one choice alone, too many, or one that is empty or repeated.
    """
    if not text.strip():
        raise DataError('The question is empty. Write it in quotes: neuron-opsd ask RUN "What is ...?"')
    if choices and not 2 <= len(choices) <= MAX_CHOICES:
        raise DataError(
            f"The question has {len(choices)} choice(s). Give 2 to {MAX_CHOICES}, each with its own --choices, or none."
        )
    try:
        cells = [check_text(choice, "A choice") for choice in choices]
        check_text(text, "The question")
    except BadRowError as error:
        raise DataError(error) from None
    try:
        texts = read_choices(cells).texts if cells else ()
    except BadRowError as error:  # which is said of a row: "has 1 choice(s) ..."
        raise DataError(f"The question {error}") from None
    if len(texts) != len(choices):
        raise DataError("A choice is repeated, or says n/a. Give each choice once.")
    return Question(question_id=content_id(text, texts), domain=DOMAIN, question=text, choices=texts)


def ask(
    speakers: Speakers, text: str, choices: Sequence[str] = (), *, num_samples: int | None = None
) -> Iterator[Answers]:
    """Each model's answers, one model in memory at a time.

    Args:
        speakers: The models.
        text: The question.
        choices: Its choices. Without any, it is free-form.
        num_samples: Replies of each model. Default: `evaluation.num_samples`.

    Raises:
        DataError: a question that cannot be asked.
        ConfigError: `num_samples` where none are drawn, or a free-form question where answers are letters.
    """
    question, settings = make_question(text, choices), settings_for(speakers, num_samples)
    check_kind(speakers, question)
    for role in speakers.roles:
        yield answers_of(speakers, role, question, settings)
        speakers.release(role)


def settings_for(speakers: Speakers, num_samples: int | None) -> EvaluationSettings:
    """Those of the run's evaluation, with another number of samples."""
    settings = speakers.config.evaluation
    if num_samples is None:
        return settings
    if settings.exact and not settings.shuffle_choices:
        raise ConfigError(
            "--samples counts replies, and this run reads its answers exactly, from one pass (evaluation.exact). "
            "Leave --samples out."
        )
    return settings.model_copy(update={"num_samples": num_samples})


def check_kind(speakers: Speakers, question: Question) -> None:
    """Refuse a free-form question to models whose every reply is one letter.

    Raises:
        ConfigError: names the ways out.
    """
    if speakers.config.evaluation.exact and not question.choices:
        raise ConfigError(
            "This run reads answers of one letter (evaluation.exact), so a question needs its choices: "
            "--choices yes --choices no. For free talk: neuron-opsd chat RUN."
        )


def answers_of(speakers: Speakers, role: str, question: Question, settings: EvaluationSettings) -> Answers:
    """One model's answers to one question, by the code of the evaluation."""
    rollouts, options = _rollouts_and_options(speakers, role, question, settings)
    votes = count_votes([question], {question.question_id: rollouts}, {}, {o.question_id: o for o in options})
    shares = votes.shares[0]
    option = options[0] if options else None
    return Answers(
        role=role,
        is_exact=votes.is_exact,
        majority=votes.majority[0],
        vote_share=float(votes.vote_share[0]),
        shares=dict(sorted(shares.items(), key=lambda pair: -pair[1])),
        option_probabilities=dict(zip(LETTERS, option.probabilities, strict=False)) if option else None,
        option_mass=option.option_mass if option else None,
        replies=tuple(map(_reply, rollouts)),
    )


def _rollouts_and_options(
    speakers: Speakers, role: str, question: Question, settings: EvaluationSettings
) -> tuple[Sequence[Rollout], Sequence[OptionScores]]:
    config, purpose = speakers.config, "evaluation"
    if settings.exact:
        exact = answer_exactly(
            [question],
            speakers.model(role),
            speakers.reader,
            sampling=sampling_of(settings),
            orders=[orders_asked(question, settings, role=role, seed=config.seed, purpose=purpose)],
            max_context=speakers.max_context,
            batch_size=settings.batch_size,
        )
        return exact, exact_options(exact)
    rollouts = sample_rollouts(
        [question],
        speakers.engine(role),
        speakers.encoder,
        prompts=config.prompts,
        sampling=sampling_of(settings),
        num_rollouts=settings.num_samples,
        shuffle_choices=settings.shuffle_choices,
        seed=config.seed,
        stage=purpose,
        max_context=speakers.max_context,
    )
    if not question.choices:
        return rollouts, ()
    options = score_options(
        [question],
        {question.question_id: rollouts},
        speakers.model(role),
        speakers.encoder,
        prompts=config.prompts,
        batch_size=settings.batch_size,
    )
    return rollouts, options


def _reply(rollout: Rollout) -> Reply:
    return make_reply(
        rollout.reply,
        answer=rollout.answer,
        is_cut=rollout.finish_reason == "length",
        num_tokens=len(rollout.completion_ids),
    )


def make_reply(reply: str, *, answer: str | None, is_cut: bool, num_tokens: int) -> Reply:
    """A reply with its thinking apart."""
    text = strip_thinking(reply)
    thinking = reply.removesuffix(text) if text != reply else ""
    return Reply(thinking=thinking.strip(), text=text, answer=answer, is_cut=is_cut, num_tokens=num_tokens)


def shown_reply(reply: Reply, *, shows_thinking: bool = False) -> str:
    """A reply for a person. Its thinking is folded into a mark, unless it is asked for."""
    parts = []
    if reply.thinking:
        words = len(reply.thinking.split())
        parts.append(reply.thinking if shows_thinking else f"[thinking: {words} words]")
    parts.append(reply.text)
    if reply.is_cut:
        parts.append(f"[cut at {reply.num_tokens} tokens]")
    return "\n".join(filter(None, parts)) or "[empty]"


Row = tuple[str, list[str]]


def describe_answers(
    question: Question, found: Sequence[Answers], *, shows_thinking: bool = False
) -> list[Row]:
    """Rows of a table: what each says, and its cell for each model."""
    is_exact = found[0].is_exact
    rows: list[Row] = [
        ("answer", [_named(question, own.majority) for own in found]),
        ("probability" if is_exact else "vote share", [_share(own, own.majority) for own in found]),
    ]
    others = list(dict.fromkeys(answer for own in found for answer in own.shares))
    if len(others) > 1:
        rows += [
            (f"  {_named(question, answer)}", [_share(own, answer) for own in found]) for answer in others
        ]
    if all(own.option_probabilities for own in found) and not is_exact:
        rows.append(("option probability", ["" for _ in found]))
        for letter in LETTERS[: len(question.choices)]:
            cells = [f"{(own.option_probabilities or {})[letter]:.0%}" for own in found]
            rows.append((f"  {_named(question, letter)}", cells))
    if not is_exact:
        rows.append(("a reply", [shown_reply(_typical(own), shows_thinking=shows_thinking) for own in found]))
    return rows


def cautions(found: Sequence[Answers]) -> list[str]:
    """What makes figures above say little, a line for each model."""
    return [
        f"{own.role}: {HARDLY_OPTIONS} (together {own.option_mass:.3f}), so the option probabilities say little."
        for own in found
        if own.option_mass is not None and own.option_mass < MIN_OPTION_MASS
    ]


def _typical(own: Answers) -> Reply:
    """The first reply with the majority's answer."""
    return next((reply for reply in own.replies if reply.answer == own.majority), own.replies[0])


def _named(question: Question, answer: str | None) -> str:
    if answer is None:
        return UNREAD
    return f"{answer}. {question.choices[LETTERS.index(answer)]}" if question.choices else answer


def _share(own: Answers, answer: str | None) -> str:
    share = own.shares.get(answer, 0.0)
    return (
        f"{share:.1%}"
        if own.is_exact
        else f"{round(share * len(own.replies))} of {len(own.replies)} ({share:.0%})"
    )
