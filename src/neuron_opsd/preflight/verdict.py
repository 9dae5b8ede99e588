"""Preflight records -> measures with intervals -> "unlikely to help" or "cannot tell", and why (docs/preflight.md).

Some signs speak against training. None was found that foresees a gain (`experiments/preflight_study.py --halves`), so
none is called likely. Each measure is shown with its interval, so that readers can judge for themselves.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.preflight.positions import MAX_POSITION_BIAS, answers_by_position
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import PreflightItem
from neuron_opsd.results import Measure, PreflightVerdict, defined
from neuron_opsd.statistics import MIN_QUESTIONS, Correlation, bootstrap_draws, bootstrap_interval
from neuron_opsd.text.answers import answers_match, majority_answer, unify_answers

Array = NDArray[np.float64]
Answers = Sequence[str | None]

ROLES = ("student", "teacher")
CANNOT_TELL, UNLIKELY = "cannot tell whether it will help", "unlikely to help"
NO_FORESIGHT = (
    "nothing speaks against training, but no measure foresaw the gain of 28 kept runs (two models, four domains) on "
    "domains that it was not fitted on (docs/preflight.md)"
)
SURER_NOTE = "Below 0 the context makes the model surer, and its student too: a warning, and no good sign."
MATCHED_NOTE = (
    "Of the teacher as it is. Training brings it to the student's entropy (training.teacher_entropy=matched)."
)
SURER = -0.005  # nats a token: a fall of entropy beyond it is told as a warning
MIN_DIVERGENCE = 0.005  # nats a token: below it the teacher says what the student says
MIN_KEPT = 0.5  # of the student's share: measured at .12 where demonstrations were cut before their answer
LOOK = "Look at what it reads (`neuron-opsd show`); were demonstrations cut (rollouts.max_new_tokens)?"
MIN_ROOM = 0.02  # of Maj minus Avg
MAX_LENGTH_CORRELATION = 0.7
NUM_RESAMPLES = 1000
NUM_DEALS = 200


def judge(
    items: Sequence[PreflightItem],
    *,
    thinks: bool,
    averages_orders: bool = False,
    matches_entropy: bool = False,
    seed: int,
    **figures: Any,
) -> PreflightVerdict:
    """The verdict, its reasons, and every measure.

    `thinks` of the model, `averages_orders` and `matches_entropy` of the teacher, `figures` are those of `measure`.
    """
    measures = measure(items, matches_entropy=matches_entropy, seed=seed, **figures)
    verdict, reasons = weigh(
        measures, thinks=thinks, averages_orders=averages_orders, matches_entropy=matches_entropy
    )
    if len(items) < MIN_QUESTIONS:
        reasons.append(
            f"but the preflight looked at {len(items)} of the questions, too few to say how replies change: set "
            f"preflight.num_questions to {MIN_QUESTIONS} or more"
        )
    return PreflightVerdict(
        verdict=verdict,
        reasons=tuple(reasons),
        thinks=thinks,
        measures=tuple(measures),
        num_questions=len(items),
    )


def measure(
    items: Sequence[PreflightItem],
    *,
    pool_diversity: float | None,
    same_template: float | None,
    length_correlation: Correlation,
    position_bias: Measure | None,
    matches_entropy: bool = False,
    seed: int,
) -> list[Measure]:
    """Every measure, in the order shown."""
    tokens = np.array([item.num_completion_tokens for item in items], dtype=np.float64)
    change = np.array([item.teacher_entropy - item.student_entropy for item in items])
    divergence = np.array([item.reverse_kl for item in items])
    chance = flips_by_chance(items, seed=seed)
    low, high = np.quantile(chance, [0.025, 0.975])
    r = length_correlation
    student_read = np.array([_readable(item.student_answers) for item in items])
    teacher_read = np.array([_readable(item.teacher_answers) for item in items])
    return [
        _per_token(
            "entropy_change", "Entropy change, teacher − student (nats a token)", change, tokens, seed,
            note=MATCHED_NOTE if matches_entropy else SURER_NOTE,
        ),
        _per_token(
            "divergence", "KL(student || teacher) (nats a token)", divergence, tokens, seed,
            note=f"Below {MIN_DIVERGENCE:g} the teacher says what the student says.",
        ),
        _mean(
            "answers_flipped", "Majority answers that the context flips", [float(_flips(i)) for i in items], seed,
            note=f"Sampling alone would flip {chance.mean():.0%} ({low:.0%} to {high:.0%}).",
        ),
        _mean(
            "readable_change", "Readable answers, teacher − student (share of samples)",
            (teacher_read - student_read).tolist(), seed,
            note=f"The student's are readable in {student_read.mean():.0%}. Below 0 the teacher's form is worse.",
            student=float(student_read.mean()), teacher=float(teacher_read.mean()),
        ),
        *_how_replies_end(items, seed),
        _mean(
            "maj_minus_avg", "Maj minus Avg of the student, the majority taken as right",
            [_gain_of_voting(item.student_answers) for item in items], seed,
            note=f"What voting could teach; 1 − vote share. Little to gain below {MIN_ROOM:g}.",
        ),
        *_agreement_with_the_vote(items, seed),
        *_agreement_without_positions(items, seed),
        *([position_bias] if position_bias else []),
        Measure(
            name="pool_diversity", label="Pool diversity (mean pairwise Jaccard distance)",
            value=pool_diversity, low=None, high=None,
            note="Near 1, neighbours by overlap differ much from random ones.",
        ),
        Measure(
            name="same_template", label="Demonstrations of the question's own template",
            value=same_template, low=None, high=None,
            note="Near 1, the context shows a form of question rather than related knowledge.",
        ),
        Measure(
            name="length_correlation", label="Correlation of s(x) with completion length",
            value=defined(r.value), low=defined(r.low), high=defined(r.high),
            note=f"Beyond ±{MAX_LENGTH_CORRELATION:g} the selection is mostly one by length.",
        ),
    ]  # fmt: skip


def _agreement_with_the_vote(items: Sequence[PreflightItem], seed: int) -> list[Measure]:
    """How often a sample gives what the student's other samples vote for. Needs two samples of a question."""
    found = np.array([pair for pair in map(agreements, items) if pair is not None])
    if not len(found):
        return []
    student, teacher = found.mean(axis=0)
    return [
        _mean(
            "agreement_change", "Agreement with the student's vote, teacher − student (share of samples)",
            (found[:, 1] - found[:, 0]).tolist(), seed,
            note=f"A sample of the student agrees with the vote of its others in {student:.0%}, one of the teacher in "
            f"{teacher:.0%}. Below 0 the context draws away from the vote.",
            student=float(student), teacher=float(teacher),
        )
    ]  # fmt: skip


def _agreement_without_positions(items: Sequence[PreflightItem], seed: int) -> list[Measure]:
    """How often the likeliest letter is the one that the mean over the orders of the choices gives."""
    read = [item for item in items if item.averaged_letter is not None]
    if not read:
        return []
    student, teacher = (
        np.array([float(getattr(item, f"{role}_letter") == item.averaged_letter) for item in read])
        for role in ROLES
    )
    return [
        _mean(
            "order_agreement_change",
            "Agreement with the order-averaged answer, teacher − student (share of questions)",
            (teacher - student).tolist(), seed,
            note=f"The student's likeliest letter is what the mean over the orders of the choices gives in "
            f"{student.mean():.0%}, the teacher's in {teacher.mean():.0%}. That mean knows no position.",
            student=float(student.mean()), teacher=float(teacher.mean()),
        )
    ]  # fmt: skip


def agreements(item: PreflightItem) -> tuple[float, float] | None:
    """Share of the student's samples, and of the teacher's, that give what the other student samples vote for.

    A sample of the student has no part in the vote it is compared with, and the teacher is compared with the same
    votes. None where no vote can be read.
    """
    pairs: list[tuple[float, float]] = []
    for left_out, own in enumerate(item.student_answers):
        others = [answer for i, answer in enumerate(item.student_answers) if i != left_out]
        vote = majority_answer(others, skip_unparsable=True).answer if others else None
        if vote is not None:
            agreeing = [answers_match(answer, vote) for answer in item.teacher_answers]
            pairs.append((float(answers_match(own, vote)), sum(agreeing) / len(agreeing)))
    if not pairs:
        return None
    students, teachers = zip(*pairs, strict=True)
    return sum(students) / len(pairs), sum(teachers) / len(pairs)


def _how_replies_end(items: Sequence[PreflightItem], seed: int) -> list[Measure]:
    """Whether the context makes replies longer, and fewer of them finish."""
    student_ends, teacher_ends = (
        np.array([np.mean(getattr(item, f"{role}_finished")) for item in items]) for role in ROLES
    )
    student_tokens, teacher_tokens = (
        np.array([float(sum(getattr(item, f"{role}_lengths"))) for item in items]) for role in ROLES
    )
    num_samples = sum(len(item.student_lengths) for item in items)
    student_length, teacher_length = (
        float(tokens.sum() / num_samples) for tokens in (student_tokens, teacher_tokens)
    )
    return [
        _mean(
            "finished_change", "Replies that finish, teacher − student (share of samples)",
            (teacher_ends - student_ends).tolist(), seed,
            note=f"{student_ends.mean():.0%} without the context, {teacher_ends.mean():.0%} with it.",
            student=float(student_ends.mean()), teacher=float(teacher_ends.mean()),
        ),
        _per_token(
            "length_ratio", "Length of a reply, teacher / student", teacher_tokens, student_tokens, seed,
            note=f"{student_length:.0f} tokens without the context, {teacher_length:.0f} with it.",
            student=student_length, teacher=teacher_length,
        ),
    ]  # fmt: skip


def weigh(
    measures: Sequence[Measure],
    *,
    thinks: bool,
    averages_orders: bool = False,
    matches_entropy: bool = False,
) -> tuple[str, list[str]]:
    """The verdict and its reasons. Four signs speak against training, the others only warn."""
    by_name = {measure.name: measure for measure in measures}
    signs = [_too_alike(by_name), _unreadable(by_name), _unfinished(by_name)]
    signs += [_has_no_position(by_name)] if averages_orders else []
    against = [reason for reason in signs if reason]
    reasons = against or [NO_FORESIGHT]
    reasons += [] if matches_entropy else _on_sureness(by_name)  # training takes the teacher's away
    reasons += _warnings(by_name) + ([_on_thinking(by_name)] if thinks else [])
    return (UNLIKELY if against else CANNOT_TELL), reasons


def _too_alike(by_name: Mapping[str, Measure]) -> str | None:
    divergence = _value(by_name["divergence"])
    if divergence >= MIN_DIVERGENCE:
        return None
    return (
        f"teacher and student differ by {divergence:.3f} nats a token, under {MIN_DIVERGENCE:g}: "
        "there is little to learn"
    )


def _unreadable(by_name: Mapping[str, Measure]) -> str | None:
    student, teacher = _by_role(by_name["readable_change"])
    if not _is_below_0(by_name["readable_change"]) or teacher >= MIN_KEPT * student:
        return None
    return (
        f"the teacher's answers are readable in {teacher:.0%}, the student's in {student:.0%}: it would teach a "
        f"form that gives no answer. {LOOK}"
    )


def _unfinished(by_name: Mapping[str, Measure]) -> str | None:
    student, teacher = _by_role(by_name["finished_change"])
    if not _is_below_0(by_name["finished_change"]) or teacher >= MIN_KEPT * student:
        return None
    return (
        f"with the context {teacher:.0%} of the replies finish, without it {student:.0%}: it would teach replies "
        "without an end"
    )


def _has_no_position(by_name: Mapping[str, Measure]) -> str | None:
    # Measured: a 1.5B model that does not answer by position lost 6 to 10 points of Avg by it (experiments/LOG.md).
    bias = by_name.get("position_bias")
    if bias is None or bias.high is None or bias.high >= MAX_POSITION_BIAS:
        return None
    return (
        "the teacher averages over the orders of the choices, but the model does not answer by position "
        f"({bias.note.partition('. ')[0]}): where that was measured, Avg fell by 6 points. Use "
        "training.teacher_orders=1"
    )


def flips_by_chance(items: Sequence[PreflightItem], *, seed: int) -> Array:
    """Share of flipped majority answers where each question's samples of both roles are dealt anew at random."""
    state = random.Random(derive_seed(seed, "preflight", "deals"))
    shares = np.zeros(NUM_DEALS)
    for item in items:
        both = list(unify_answers([*item.student_answers, *item.teacher_answers]))
        size = len(item.student_answers)
        for deal in range(NUM_DEALS if len(set(both)) > 1 else 0):
            state.shuffle(both)
            shares[deal] += _majority(both[:size]) != _majority(both[size:])
    return shares / max(len(items), 1)


def _on_sureness(by_name: Mapping[str, Measure]) -> list[str]:
    change = _value(by_name["entropy_change"])
    if change >= SURER:
        return []
    return [
        f"but the context makes the model surer, by {_signed(change)} nats a token: its student can become "
        "overconfident (arXiv 2604.16830). Look at the ECE after training"
    ]


def _warnings(by_name: Mapping[str, Measure]) -> list[str]:
    warnings: list[str] = []
    readable, ends = by_name["readable_change"], by_name["finished_change"]
    if _is_below_0(readable) and not _unreadable(by_name):
        student, teacher = _by_role(readable)
        warnings.append(
            f"but the teacher's answers are readable in {teacher:.0%}, the student's in {student:.0%}. {LOOK}"
        )
    if _is_below_0(ends) and not _unfinished(by_name):
        student, teacher = _by_role(ends)
        warnings.append(f"but with the context {teacher:.0%} of the replies finish, without it {student:.0%}")
    if not by_name["answers_flipped"].value:
        warnings.append("but the context flips no majority answer")
    agreement = by_name.get("agreement_change")
    if agreement and _is_below_0(agreement):
        student, teacher = _by_role(agreement)
        warnings.append(
            f"but the teacher gives what the student's samples vote for in {teacher:.0%}, a sample of the student in "
            f"{student:.0%}"
        )
    bias = by_name.get("position_bias")
    if bias and answers_by_position(bias):
        warnings.append(
            f"but the model answers by position ({bias.note.partition('. ')[0]}). The recipe order_average teaches the "
            "mean over orders of the choices"
        )
    if _value(by_name["maj_minus_avg"]) < MIN_ROOM:
        warnings.append("but the model nearly always agrees with itself, so there is little for it to settle")
    r = by_name["length_correlation"]
    if r.value is not None and abs(r.value) > MAX_LENGTH_CORRELATION:
        warnings.append(
            f"but s(x) follows completion length (r = {r.value:.2f}): consider selection.score="
            "consensus_length_residualised"
        )
    return warnings


def _on_thinking(by_name: Mapping[str, Measure]) -> str:
    student_ends, teacher_ends = _by_role(by_name["finished_change"])
    student_length, teacher_length = _by_role(by_name["length_ratio"])
    return (
        "this model thinks, and privileged context has been reported to hurt thinking models (arXiv 2607.05184): here "
        f"{teacher_ends:.0%} of the replies finish with it and {student_ends:.0%} without, at "
        f"{teacher_length:.0f} and {student_length:.0f} tokens a reply"
    )


def _flips(item: PreflightItem) -> bool:
    before, after = _majority(item.student_answers), _majority(item.teacher_answers)
    return before != after and not answers_match(before, after)


def _gain_of_voting(answers: Answers) -> float:
    """The share of samples that are not the vote. Where none can be read there is no vote to gain from."""
    vote = majority_answer(answers, skip_unparsable=True)
    return 0.0 if vote.answer is None else 1 - vote.share


def _readable(answers: Answers) -> float:
    return sum(answer is not None for answer in answers) / len(answers)


def _majority(answers: Answers) -> str | None:
    return majority_answer(answers, skip_unparsable=False).answer


def _per_token(
    name: str,
    label: str,
    sums: Array,
    tokens: Array,
    seed: int,
    *,
    note: str,
    student: float | None = None,
    teacher: float | None = None,
) -> Measure:
    """A mean over tokens. Its interval resamples questions, because tokens of one completion hang together.

    It has no ends below MIN_QUESTIONS.
    """
    draws = bootstrap_draws(
        lambda weights: {name: weights @ sums / (weights @ tokens)},
        num_items=len(sums), num_resamples=NUM_RESAMPLES, seed=seed,
    )  # fmt: skip
    interval = bootstrap_interval(float(sums.sum() / tokens.sum()), draws[name])
    low, high = (interval.low, interval.high) if len(sums) >= MIN_QUESTIONS else (math.nan, math.nan)
    return Measure(
        name=name, label=label, value=interval.value, low=defined(low), high=defined(high),
        note=note, student=student, teacher=teacher,
    )  # fmt: skip


def _mean(
    name: str, label: str, values: Sequence[float], seed: int, *, note: str, **by_role: float
) -> Measure:
    return _per_token(name, label, np.array(values), np.ones(len(values)), seed, note=note, **by_role)


def _value(measure: Measure) -> float:
    """Of a measure that is always defined."""
    assert measure.value is not None
    return measure.value


def _by_role(measure: Measure) -> tuple[float, float]:
    """Student's and teacher's, of a measure that has both."""
    assert measure.student is not None
    assert measure.teacher is not None
    return measure.student, measure.teacher


def _is_below_0(measure: Measure) -> bool:
    """Whether a difference is shown to be below 0. Without an interval it is not."""
    return measure.high is not None and measure.high < 0


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
