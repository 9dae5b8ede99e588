"""What evaluation and preflight find: `results.json` (docs/evaluation.md), `teacher_gap.json` and `verdict.json`.

Each is built once, whole, and never changed. Report and comparison read them back from disk. A field without a default
is null in the JSON where it is None. A field with a default is left out of the JSON where it has that value. Numbers
that are not defined are None.

Units: shares, probabilities, accuracies and calibration errors are between 0 and 1. Entropies and divergences are in
nats, lengths in tokens. Intervals are 95 %, over questions.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

T = TypeVar("T")
Role = Literal["base", "trained"]


@dataclass(frozen=True, slots=True)
class Both(Generic[T]):
    """The same thing of the base model and of the trained one."""

    base: T
    trained: T

    def items(self) -> Iterator[tuple[Role, T]]:
        """Each with its role, the base model first."""
        yield "base", self.base
        yield "trained", self.trained

    def of(self, role: Role) -> T:
        """That of one of the two."""
        return self.base if role == "base" else self.trained


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the ends of its interval. No ends where there are too few questions for one."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Judged(Estimate):
    """A difference, and in words whether its interval shows one."""

    verdict: str


@dataclass(frozen=True, slots=True)
class Simulated:
    """Mean and central 95 % of what chance alone would give."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One metric before and after training, the paired difference, and what it shows.

    `unreliable` are the roles whose value cannot be relied on. `caution` says why in a sentence. Binned calibration
    errors have `perfectly_calibrated`: what a perfectly calibrated model would show at this number of questions.
    """

    label: str
    better: str  # "higher", "lower" or "neither"
    num_domains: int | None = None  # over which a mean is
    base: Estimate
    trained: Estimate
    difference: Estimate
    verdict: str
    unreliable: tuple[Role, ...] = ()
    caution: str = ""
    perfectly_calibrated: Both[Simulated] | None = None

    @property
    def both(self) -> Both[Estimate]:
        """The metric before and after training."""
        return Both(self.base, self.trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """One bin of a reliability diagram. Mean confidence and accuracy are None where it is empty."""

    low: float
    high: float
    count: int  # questions
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """Error rate of the most confident share of the answers."""

    coverage: float
    risk: float


@dataclass(frozen=True, slots=True)
class BrierParts:
    """Brier score = reliability - resolution + uncertainty."""

    reliability: float
    resolution: float
    uncertainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceResult:
    """One kind of confidence: its rule, where its metrics are, and its bins where there are gold answers."""

    label: str
    rule: str
    num_questions: int  # that have this confidence
    num_with_gold: int
    metrics: Mapping[str, str]  # plain name (ece, accuracy, ...) -> name in the block's `metrics`
    reliability: Both[tuple[Bin, ...]] | None = None
    brier_parts: Both[BrierParts] | None = None
    risk_coverage: Both[tuple[CoveragePoint, ...]] | None = None


@dataclass(frozen=True, slots=True)
class MajorityClass:
    """The commonest gold answer, and what always giving it would score."""

    answer: str
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShares:
    """Share of each answer letter among all samples, and in the key."""

    base: Mapping[str, float]
    trained: Mapping[str, float]
    gold: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What changed in the answers, beside what sampling the same model twice would change."""

    label: str
    value: float
    by_chance: Simulated
    num_questions: int
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """`answer_shift` is there where questions have choices."""

    answers_flipped: Change
    answer_shift: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainResult:
    """Everything about both models on the questions of one domain.

    `reliability` and `brier_parts` are those of the vote share. `beyond_majority` is the trained model's Avg minus the
    base model's Maj (the expected Maj@k where answers are exact). The three are there where any question has a gold
    answer.
    """

    num_questions: int
    num_with_gold: int
    num_without_gold: int
    num_ties: Both[int]  # questions whose vote was tied
    majority_class: MajorityClass | None
    metrics: Mapping[str, MetricResult]  # in the order in which reports show them
    confidence_kinds: Mapping[str, ConfidenceResult]
    reliability: Both[tuple[Bin, ...]] | None = None
    brier_parts: Both[BrierParts] | None = None
    matched_temperatures: Both[float] | None = None  # at which options have the base model's mean entropy
    beyond_majority: Judged | None = None
    answer_distribution: AnswerShares | None  # None where no question has choices
    changes: Changes
    num_drawn: Both[int] | None = (
        None  # samples, where `evaluation.stop_votes` drew no more than votes needed
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanResult:
    """The mean over domains, each counted once."""

    num_domains: int
    num_questions: int
    num_with_gold: int
    num_without_gold: int
    metrics: Mapping[str, MetricResult]
    beyond_majority: Judged | None = None


ResultBlock = DomainResult | MeanResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Domains:
    """Results of some domains, and their mean."""

    domains: Mapping[str, DomainResult]
    mean: MeanResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KlFromBase:
    """KL(trained || base), a mean over tokens of the base model's own completions. Nats a token."""

    label: str
    value: float
    low: float | None
    high: float | None
    num_questions: int
    num_tokens: int

    @property
    def estimate(self) -> Estimate:
        """The value with its interval."""
        return Estimate(self.value, self.low, self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralResult(Domains):
    """What training did to general questions, which have their own number of samples."""

    num_samples: int
    kl_from_base: KlFromBase


@dataclass(frozen=True, slots=True)
class Outcome:
    """One model on one question. What says whether it is right is None where it has no gold answer."""

    answer: str | None  # the majority's
    vote_share: float
    correct_fraction: float | None  # of the samples
    majority_correct: float | None  # 1 or 0
    pass_fraction: float | None = None  # the chance that one of k samples is right
    voted_correct: float | None = (
        None  # exact answers alone: the chance that the majority of k samples is right
    )


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """Both models on one question: the fields of `Outcome`, once for each."""

    question_id: str
    domain: str
    base_answer: str | None
    base_vote_share: float
    base_correct_fraction: float | None
    base_majority_correct: float | None
    trained_answer: str | None
    trained_vote_share: float
    trained_correct_fraction: float | None
    trained_majority_correct: float | None
    base_pass_fraction: float | None = None
    base_voted_correct: float | None = None
    trained_pass_fraction: float | None = None
    trained_voted_correct: float | None = None

    @property
    def both(self) -> Both[Outcome]:
        """The outcome before and after training."""
        base = Outcome(
            self.base_answer,
            self.base_vote_share,
            self.base_correct_fraction,
            self.base_majority_correct,
            self.base_pass_fraction,
            self.base_voted_correct,
        )
        trained = Outcome(
            self.trained_answer,
            self.trained_vote_share,
            self.trained_correct_fraction,
            self.trained_majority_correct,
            self.trained_pass_fraction,
            self.trained_voted_correct,
        )
        return Both(base, trained)


@dataclass(frozen=True, slots=True)
class PoolQuestion:
    """A question of the pool whose answer was scored after training."""

    question_id: str
    correct_fraction: float  # of its zero-shot rollouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The trained model compared with the base model: all of `evaluation/results.json`."""

    num_samples: int  # of each question: the k of Avg@k
    temperature: float
    top_p: float
    num_bins: int  # of the ECE
    num_bootstrap: int
    level: float  # of every interval
    seed: int
    train_domain: str  # "all 3 domains" where several were trained on
    num_not_scored: int  # questions that lack rollouts of one model
    in_domain: Annotated[
        DomainResult | None, Field(alias="in")
    ]  # the domain trained on; of several, their questions together
    cross: Domains  # the other domains
    verdicts: tuple[str, ...]  # sentences
    questions: tuple[QuestionResult, ...]
    pool_questions: tuple[PoolQuestion, ...]
    general: GeneralResult | None
    pass_k: int = 8  # of pass@k, and of the expected Maj@k
    num_complete: int | None = (
        None  # with `evaluation.stop_votes`: samples that each question has, the k of Avg@k
    )
    is_exact: bool = (
        False  # read from the first token's probabilities, with num_samples orders of the choices
    )
    own: Mapping[str, DomainResult] = field(
        default_factory=dict[str, DomainResult]
    )  # each of several domains trained on

    @property
    def trained_domains(self) -> tuple[str, ...]:
        """The domain trained on, or each of several."""
        return tuple(self.own) or (self.train_domain,)


def name_together(domains: Sequence[str]) -> str:
    """What the domains trained on are called together."""
    return domains[0] if len(domains) == 1 else f"all {len(domains)} domains"


def majority_label(num_samples: int, *, is_exact: bool) -> str:
    """The majority's name. Of exact answers it is the likeliest one, which infinitely many samples would vote for."""
    return "Likeliest answer (exact)" if is_exact else f"Maj@{num_samples}"


VOTE_FIGURES = frozenset(
    {
        *("vote_share", "answer_entropy", "ece", "ece_10", "ece_adaptive", "mce", "brier", "nll"),
        *("auroc", "aurc", "overconfidence"),
    }
)
MIN_READABLE = 0.05  # Share of replies below which their votes say nothing. A heuristic of ours.


def hardly_read(metrics: Mapping[str, MetricResult]) -> tuple[Role, ...]:
    """The models of whose replies hardly any could be read. `VOTE_FIGURES` mean nothing for them."""
    parsed = metrics.get("parse_rate")
    if parsed is None:
        return ()
    return tuple(
        role for role, own in parsed.both.items() if own.value is not None and own.value < MIN_READABLE
    )


def of_samples(num_samples: int, *, is_exact: bool) -> str:
    """What stands behind Avg."""
    return " (exact)" if is_exact else f"@{num_samples}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessScores:
    """One model under lm-evaluation-harness: for each task `num_questions`, and the value of each metric."""

    fingerprint: str
    tasks: Mapping[str, Mapping[str, int | float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """`harness/results.json`. A run that trains nothing has the base model alone."""

    lm_eval: str  # its version
    base: HarnessScores
    trained: HarnessScores | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure(Estimate):
    """One measure of the preflight, with what it says in `note`. Some have the figures of both roles."""

    name: str
    label: str
    note: str
    student: float | None = None
    teacher: float | None = None
    by_chance: float | None = None  # what 97.5 % of chance findings stay under, where that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherGap:
    """How much better the preflight's teacher answers than the student, by gold answers."""

    num_with_gold: int
    student_accuracy: float
    teacher_accuracy: float
    measures: tuple[Measure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightVerdict:
    """What speaks against training, told before it and without labels."""

    verdict: str
    reasons: tuple[str, ...]
    thinks: bool  # the model
    measures: tuple[Measure, ...]
    num_questions: int


def defined(value: float) -> float | None:
    """A Python float. None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def dump(result: object) -> dict[str, Any]:
    """A result as plain values for JSON."""
    return _adapter(type(result)).dump_python(result, mode="json", by_alias=True, exclude_defaults=True)


def load(kind: type[T], saved: Mapping[str, Any]) -> T:
    """The inverse of `dump`.

    Raises:
        ValueError: the values are no such result. The message names the first that is wrong or missing.
    """
    try:
        return _adapter(kind).validate_python(saved)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@functools.cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)
