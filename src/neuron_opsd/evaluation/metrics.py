"""Every metric of a set of questions: its name, which way is better, and how weights over questions give it.

A statistic is a function of bootstrap weights, so that one set of resamples serves all
metrics of the base and the trained model, and their difference is paired by question.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.evaluation import calibration
from neuron_opsd.evaluation.temperatures import AT_USE, MATCHED, tempered
from neuron_opsd.evaluation.votes import Votes
from neuron_opsd.results import MajorityClass, majority_label, of_samples

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
UNPARSABLE = "unparsable"  # its name in the answer distribution
ADAPTIVE_BINS = 10
LABEL_FREE = (
    "vote_share", "option_confidence", "true_confidence", "option_mass", "answer_entropy", "parse_rate",
    "completion_tokens", "truncated_fraction",
)  # fmt: skip
OPTION_MARGIN = 1e-6  # of the log-likelihood. A probability of 1 that is wrong would be infinite


@dataclass(frozen=True, slots=True)
class ConfidenceKind:
    """What a confidence is, and which columns of the votes hold it. Metrics of a kind share a prefix."""

    label: str
    rule: str
    prefix: str
    confidence: str
    correct: str
    confidence_metric: str
    accuracy_metric: str
    exact_rule: str = ""  # the rule with `evaluation.exact`, where that is another
    has: str = ""  # the column that says which questions have this confidence. Default: all

    def rule_for(self, votes: Votes) -> str:
        """What the confidence is in these votes."""
        return self.exact_rule if votes.is_exact and self.exact_rule else self.rule

    def scored(self, votes: Votes) -> NDArray[np.bool_]:
        """Which questions have this confidence."""
        return getattr(votes, self.has) if self.has else np.ones(len(votes), dtype=bool)

    def scored_pairs(self, votes: Votes) -> tuple[Array, Array]:
        """Confidence and correctness of the questions that have it and a gold answer."""
        rows = votes.has_gold & self.scored(votes)
        return getattr(votes, self.confidence)[rows], getattr(votes, self.correct)[rows]

    def margin(self, votes: Votes) -> float:
        """How close to 0 and 1 the log-likelihood takes this confidence. Half a vote for shares."""
        is_probability = self.prefix or votes.is_exact
        return OPTION_MARGIN if is_probability else float(1 / (2 * votes.num_samples.max()))


KINDS = {
    "vote_share": ConfidenceKind(
        "Vote share",
        "Votes of the majority answer / samples; an unparsable answer that wins is wrong, of tied answers the first "
        "given wins.",
        "", "vote_share", "majority_correct", "vote_share", "maj",
        "Exact: the probability of the likeliest answer at the temperature of use, averaged over the orders of the "
        "choices. It is the vote share of infinitely many samples.",
    ),
    "option_probability": ConfidenceKind(
        "Option probability",
        "Probability of the likeliest choice as the start of the reply, the choices' sum taken as 1, averaged over the "
        "orders in which the samples saw them; multiple choice only.",
        "option_", "option_confidence", "option_correct", "option_confidence", "option_accuracy",
        has="has_options",
    ),
    "p_true": ConfidenceKind(
        "P(True)",
        "How likely the model says yes, of yes and no, when it is asked whether its own majority answer is right.",
        "true_", "truth_probability", "majority_correct", "true_confidence", "true_accuracy",
        has="has_truth",
    ),
}  # fmt: skip
SHARED = ("ece", "ece_10", "ece_adaptive", "mce", "brier", "nll", "auroc", "aurc", "overconfidence")


@dataclass(frozen=True, slots=True)
class Metric:
    """Its name in `results`, label, better direction, range, and whether it needs gold answers."""

    name: str
    label: str
    better: str  # "higher", "lower" or "neither"
    needs_gold: bool
    low: float = 0.0
    high: float = 1.0


def metrics_of(
    num_samples: int,
    num_bins: int,
    *,
    pass_k: int,
    temperature: float,
    is_exact: bool = False,
    num_complete: int | None = None,
) -> list[Metric]:
    """All metrics in the order in which reports show them. Of `num_complete` samples, where votes stopped."""
    of = of_samples(num_complete or num_samples, is_exact=is_exact)
    return [
        Metric("avg", f"Avg{of}", "higher", True),
        Metric("maj", majority_label(num_samples, is_exact=is_exact), "higher", True),
        Metric("maj_at_k", f"Maj@{pass_k} (expected)", "higher", True),
        Metric("pass_at_k", f"pass@{pass_k}", "higher", True),
        Metric("balanced_accuracy", "Balanced accuracy", "higher", True),
        *(metric for kind in KINDS.values() for metric in _calibration_metrics(kind, num_bins)),
        Metric(AT_USE, f"ECE-{num_bins} at temperature {temperature:g} (option probability)", "lower", True),
        Metric(MATCHED, f"ECE-{num_bins} at the base's mean entropy (option probability)", "lower", True),
        Metric("vote_share", "Vote share", "neither", False),
        Metric("option_confidence", "Probability of the likeliest option", "neither", False),
        Metric("true_confidence", "P(True)", "neither", False),
        Metric("option_mass", "Probability of all options together", "neither", False),
        Metric("answer_entropy", "Answer entropy (nats)", "neither", False, high=np.inf),
        Metric("parse_rate", "Parse rate", "higher", False),
        Metric("completion_tokens", "Completion length (tokens)", "neither", False, high=np.inf),
        Metric("truncated_fraction", "Truncated share", "lower", False),
    ]


def _calibration_metrics(kind: ConfidenceKind, num_bins: int) -> list[Metric]:
    of = f" ({kind.label.lower()})"
    accuracy = (
        [] if kind.prefix == "" else [Metric(kind.prefix + "accuracy", "Accuracy" + of, "higher", True)]
    )
    return [
        *accuracy,
        Metric(kind.prefix + "ece", f"ECE-{num_bins}" + of, "lower", True),
        Metric(kind.prefix + "ece_10", "ECE-10" + of, "lower", True),
        Metric(kind.prefix + "ece_adaptive", f"Adaptive ECE-{ADAPTIVE_BINS}" + of, "lower", True),
        Metric(kind.prefix + "mce", f"MCE-{num_bins}" + of, "lower", True),
        Metric(kind.prefix + "brier", "Brier score" + of, "lower", True),
        Metric(kind.prefix + "nll", "Negative log-likelihood" + of, "lower", True, high=np.inf),
        Metric(kind.prefix + "auroc", "AUROC" + of, "higher", True),
        Metric(kind.prefix + "aurc", "AURC" + of, "lower", True),
        Metric(kind.prefix + "overconfidence", "Overconfidence" + of, "neither", True, low=-1.0),
    ]


# Their order does not depend on the settings.
NAMES = tuple(metric.name for metric in metrics_of(8, 15, pass_k=8, temperature=1))


def label_free_statistics(votes: Votes) -> dict[str, Statistic]:
    """Metrics that need no gold answer, as functions of weights over all questions."""
    statistics = {
        "vote_share": _mean_of(votes.vote_share),
        "answer_entropy": _mean_of(votes.answer_entropy),
        "parse_rate": _mean_of(votes.parsed_fraction),
        "completion_tokens": _mean_of(votes.completion_tokens),
        "truncated_fraction": _mean_of(votes.truncated_fraction),
    }
    if votes.has_truth.any():
        asked = votes.has_truth
        statistics["true_confidence"] = _of_rows(_mean_of(votes.truth_probability[asked]), asked)
    rows = votes.has_options
    if rows.any():
        statistics["option_confidence"] = _of_rows(_mean_of(votes.option_confidence[rows]), rows)
        statistics["option_mass"] = _of_rows(_mean_of(votes.option_mass[rows]), rows)
    return statistics


def gold_statistics(
    votes: Votes, *, num_bins: int, temperatures: Mapping[str, float] | None = None
) -> dict[str, Statistic]:
    """Metrics that need a gold answer, as functions of weights over the questions that have one.

    `temperatures` are those at which the options' ECE is taken, too, by the name of the metric.
    """
    rows = votes.has_gold
    correct = votes.majority_correct[rows]
    statistics: dict[str, Statistic] = {
        "avg": _mean_of(votes.correct_fraction[rows]),
        "maj": _mean_of(correct),
        "pass_at_k": _mean_of(votes.pass_fraction[rows]),
    }
    if votes.is_exact:
        statistics["maj_at_k"] = _mean_of(votes.voted_correct[rows])
    for kind in KINDS.values():
        scored = kind.scored(votes)[rows]
        if scored.any():
            found = _calibration_statistics(kind, votes, num_bins)
            statistics |= {kind.prefix + name: _of_rows(f, scored) for name, f in found.items()}
    scored = votes.has_options & rows
    for name, temperature in (temperatures or {}).items() if scored.any() else ():
        statistics[name] = _of_rows(_option_ece(votes, scored, temperature, num_bins), scored[rows])
    if votes.is_choice[rows].all():  # classes are letters. Free-form answers have none
        gold = np.array([answer for answer, has in zip(votes.gold, rows, strict=True) if has], dtype=str)
        statistics["balanced_accuracy"] = lambda w: balanced_accuracy(gold, correct, w)
    return statistics


def _calibration_statistics(kind: ConfidenceKind, votes: Votes, num_bins: int) -> dict[str, Statistic]:
    """Statistics of one kind of confidence, over the questions that have it and a gold answer."""
    confidence, correct = kind.scored_pairs(votes)
    margin = kind.margin(votes)
    found: dict[str, Statistic] = {
        "ece": lambda w: calibration.ece(confidence, correct, num_bins=num_bins, weights=w),
        "ece_10": lambda w: calibration.ece(confidence, correct, num_bins=10, weights=w),
        "ece_adaptive": lambda w: calibration.adaptive_ece(
            confidence, correct, num_bins=ADAPTIVE_BINS, weights=w
        ),
        "mce": lambda w: calibration.mce(confidence, correct, num_bins=num_bins, weights=w),
        "brier": lambda w: calibration.brier(confidence, correct, weights=w),
        "nll": lambda w: calibration.negative_log_likelihood(confidence, correct, margin=margin, weights=w),
        "auroc": lambda w: calibration.auroc(confidence, correct, weights=w),
        "aurc": lambda w: calibration.aurc(confidence, correct, weights=w),
        "overconfidence": lambda w: calibration.overconfidence(confidence, correct, weights=w),
    }
    return found if kind.prefix == "" else {"accuracy": _mean_of(correct), **found}


def _option_ece(votes: Votes, scored: NDArray[np.bool_], temperature: float, num_bins: int) -> Statistic:
    """Another temperature changes how sure the likeliest option is, and not which one it is."""
    own = zip(votes.option_shares, scored, strict=True)
    confidence = np.array([tempered(shares, temperature).max() for shares, has in own if has])
    correct = votes.option_correct[scored]
    return lambda w: calibration.ece(confidence, correct, num_bins=num_bins, weights=w)


def _of_rows(statistic: Statistic, rows: NDArray[np.bool_]) -> Statistic:
    """A statistic over some of the items. A resample that drew none of them gives NaN."""
    if rows.all():
        return statistic

    def of_rows(weights: Array) -> Array:
        own = weights[..., rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(own.sum(axis=-1) > 0, statistic(own), np.nan)

    return of_rows


def balanced_accuracy(gold: NDArray[np.str_], correct: Array, weights: Array) -> Array:
    """Mean over the gold classes of the accuracy within each. Always one letter scores 1 / classes."""
    classes, codes = np.unique(gold, return_inverse=True)
    member = (codes[:, None] == np.arange(classes.size)).astype(np.float64)
    sizes = weights @ member
    hits = weights @ (member * correct[:, None])
    recall = np.divide(hits, sizes, out=np.full_like(hits, np.nan), where=sizes > 0)
    return np.nanmean(recall, axis=-1)


def majority_class(votes: Votes) -> MajorityClass | None:
    """The commonest gold answer and its rate: what always answering it would score. None without a key."""
    gold = [answer for answer in votes.gold if answer is not None]
    if not gold:
        return None
    classes, counts = np.unique(np.array(gold, dtype=str), return_counts=True)
    best = int(np.argmax(counts))
    return MajorityClass(str(classes[best]), float(counts[best] / len(gold)))


def answer_rows(votes: Votes, letters: list[str]) -> Array:
    """Share of each question's samples giving each letter. Shape (choice questions, letters + unparsable)."""
    rows = [own for own, is_choice in zip(votes.shares, votes.is_choice, strict=True) if is_choice]
    known = [*letters, None]
    shares = [[own.get(name, 0.0) for name in known] for own in rows]
    return np.asarray(shares, dtype=np.float64).reshape(len(rows), len(known))


def answer_letters(*votes: Votes) -> list[str]:
    """All letters that anyone answers or the key holds, among multiple-choice questions."""
    found: set[str] = set()
    for one in votes:
        for given, gold, is_choice in zip(one.shares, one.gold, one.is_choice, strict=True):
            if is_choice:
                found.update(answer for answer in (*given, gold) if answer is not None)
    return sorted(found)


def total_variation(first: Array, second: Array) -> Array:
    """Half the sum of absolute differences along the last axis: the share of answers that moved."""
    return np.abs(first - second).sum(axis=-1) / 2


def _mean_of(values: Array) -> Statistic:
    return lambda weights: weights @ values / weights.sum(axis=-1)
