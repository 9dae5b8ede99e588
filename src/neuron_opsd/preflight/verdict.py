"""Preflight records -> measures with intervals -> "likely / unlikely to help, because ..." (docs/preflight.md).

The thresholds are heuristics from four published domains. Each measure is shown with its interval, so that readers can
judge for themselves.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import PreflightItem
from neuron_opsd.results import Measure, PreflightVerdict, defined
from neuron_opsd.statistics import Correlation, bootstrap_draws, bootstrap_interval
from neuron_opsd.text.answers import majority_answer

Array = NDArray[np.float64]
Answers = Sequence[str | None]

ROLES = ("student", "teacher")
LIKELY, UNLIKELY = "likely to help", "unlikely to help"
# Published domains that gained: -.017 and -.010 nats a token. Those that did not: -.002 and +.001 (docs/preflight.md).
MAX_ENTROPY_CHANGE = -0.005
MIN_DIVERGENCE = 0.005  # nats a token: below it the teacher says what the student says
MIN_READABLE = (
    0.5  # of the student's share: measured at .12 where demonstrations were cut before their answer
)
MIN_ROOM = 0.02  # of Maj minus Avg
MAX_LENGTH_CORRELATION = 0.7
NUM_RESAMPLES = 1000
NUM_DEALS = 200


def judge(items: Sequence[PreflightItem], *, thinks: bool, seed: int, **figures: Any) -> PreflightVerdict:
    """The verdict, its reasons, and every measure. `thinks` of the model, `figures` are those of `measure`."""
    measures = measure(items, seed=seed, **figures)
    verdict, reasons = weigh(measures, thinks=thinks)
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
            note=f"A good sign below {MAX_ENTROPY_CHANGE:g}.",
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
            [1 - majority_answer(i.student_answers, skip_unparsable=True).share for i in items], seed,
            note=f"What voting could teach; 1 − vote share. Little to gain below {MIN_ROOM:g}.",
        ),
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


def weigh(measures: Sequence[Measure], *, thinks: bool) -> tuple[str, list[str]]:
    """The verdict and its reasons: three signs decide, the others only warn."""
    by_name = {measure.name: measure for measure in measures}
    change, divergence = _value(by_name["entropy_change"]), _value(by_name["divergence"])
    surer = change < MAX_ENTROPY_CHANGE
    differs = divergence >= MIN_DIVERGENCE
    is_weak = _covers(by_name["entropy_change"], MAX_ENTROPY_CHANGE)
    reasons = [
        f"the context changes the model's entropy by {_signed(change)} nats a token"
        + (", so it makes it surer" if surer else ", so it does not make it surer")
        + f" (threshold {_signed(MAX_ENTROPY_CHANGE)}"
        + (", which the interval includes: a weak sign)" if is_weak else ")"),
        f"teacher and student differ by {divergence:.3f} nats a token"
        + ("" if differs else f", under {MIN_DIVERGENCE:g}: there is little to learn"),
    ]
    readable = by_name["readable_change"]
    student, teacher = _by_role(readable)
    is_worse = _value(readable) < 0 and not _covers(readable, 0.0)
    unreadable = is_worse and teacher < MIN_READABLE * student
    if is_worse:
        reasons.append(
            f"the teacher's answers are readable in {teacher:.0%}, the student's in {student:.0%}"
            + (": it would teach a form that gives no answer" if unreadable else "")
            + ". Look at what it reads (`neuron-opsd show`); were demonstrations cut (rollouts.max_new_tokens)?"
        )
    reasons += _warnings(by_name) + ([_on_thinking(by_name)] if thinks else [])
    return (LIKELY if surer and differs and not unreadable else UNLIKELY), reasons


def flips_by_chance(items: Sequence[PreflightItem], *, seed: int) -> Array:
    """Share of flipped majority answers where each question's samples of both roles are dealt anew at random."""
    state = random.Random(derive_seed(seed, "preflight", "deals"))
    shares = np.zeros(NUM_DEALS)
    for item in items:
        both = [*item.student_answers, *item.teacher_answers]
        size = len(item.student_answers)
        for deal in range(NUM_DEALS if len(set(both)) > 1 else 0):
            state.shuffle(both)
            shares[deal] += _majority(both[:size]) != _majority(both[size:])
    return shares / max(len(items), 1)


def _warnings(by_name: Mapping[str, Measure]) -> list[str]:
    flipped, room, r = (by_name[name] for name in ("answers_flipped", "maj_minus_avg", "length_correlation"))
    warnings: list[str] = []
    if not flipped.value:
        warnings.append("but the context flips no majority answer")
    ends = by_name["finished_change"]
    if _value(ends) < 0 and not _covers(ends, 0.0):
        student, teacher = _by_role(ends)
        warnings.append(f"but with the context {teacher:.0%} of the replies finish, without it {student:.0%}")
    if _value(room) < MIN_ROOM:
        warnings.append("but the model nearly always agrees with itself, so there is little for it to settle")
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
    return _majority(item.student_answers) != _majority(item.teacher_answers)


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
    """A mean over tokens. Its interval resamples questions, because tokens of one completion hang together."""
    draws = bootstrap_draws(
        lambda weights: {name: weights @ sums / (weights @ tokens)},
        num_items=len(sums), num_resamples=NUM_RESAMPLES, seed=seed,
    )  # fmt: skip
    interval = bootstrap_interval(float(sums.sum() / tokens.sum()), draws[name])
    return Measure(
        name=name, label=label, value=interval.value, low=defined(interval.low), high=defined(interval.high),
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


def _covers(measure: Measure, point: float) -> bool:
    return measure.low is not None and measure.high is not None and measure.low <= point <= measure.high


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
