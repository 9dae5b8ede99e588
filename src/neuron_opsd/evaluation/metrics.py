"""Every metric of a set of questions: its name, which way is better, and how weights over questions give it.

A statistic is a function of bootstrap weights, so that one set of resamples serves all
metrics of the base and the trained model, and their difference is paired by question.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.evaluation import calibration
from neuron_opsd.evaluation.votes import Votes

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
UNPARSABLE = "unparsable"  # its name in the answer distribution
ADAPTIVE_BINS = 10
MIN_QUESTIONS = 10  # below this a bootstrap interval means nothing: none is given, and no verdict
LABEL_FREE = ("vote_share", "answer_entropy", "parse_rate", "completion_tokens", "truncated_fraction")


@dataclass(frozen=True, slots=True)
class Metric:
    """Its name in `results`, label, better direction, range, and whether it needs gold answers."""

    name: str
    label: str
    better: str  # "higher", "lower" or "neither"
    needs_gold: bool
    low: float = 0.0
    high: float = 1.0


def metrics_of(num_samples: int, num_bins: int) -> list[Metric]:
    """All metrics in the order in which reports show them."""
    return [
        Metric("avg", f"Avg@{num_samples}", "higher", True),
        Metric("maj", f"Maj@{num_samples}", "higher", True),
        Metric("balanced_accuracy", "Balanced accuracy", "higher", True),
        Metric("ece", f"ECE-{num_bins}", "lower", True),
        Metric("ece_10", "ECE-10", "lower", True),
        Metric("ece_adaptive", f"Adaptive ECE-{ADAPTIVE_BINS}", "lower", True),
        Metric("mce", f"MCE-{num_bins}", "lower", True),
        Metric("brier", "Brier score", "lower", True),
        Metric("nll", "Negative log-likelihood", "lower", True, high=np.inf),
        Metric("auroc", "AUROC", "higher", True),
        Metric("aurc", "AURC", "lower", True),
        Metric("overconfidence", "Overconfidence", "neither", True, low=-1.0),
        Metric("vote_share", "Vote share", "neither", False),
        Metric("answer_entropy", "Answer entropy (nats)", "neither", False, high=np.inf),
        Metric("parse_rate", "Parse rate", "higher", False),
        Metric("completion_tokens", "Completion length (tokens)", "neither", False, high=np.inf),
        Metric("truncated_fraction", "Truncated share", "lower", False),
    ]


NAMES = tuple(metric.name for metric in metrics_of(8, 15))  # their order does not depend on the settings


def label_free_statistics(votes: Votes) -> dict[str, Statistic]:
    """Metrics that need no gold answer, as functions of weights over all questions."""
    return {
        "vote_share": _mean_of(votes.vote_share),
        "answer_entropy": _mean_of(votes.answer_entropy),
        "parse_rate": _mean_of(votes.parsed_fraction),
        "completion_tokens": _mean_of(votes.completion_tokens),
        "truncated_fraction": _mean_of(votes.truncated_fraction),
    }


def gold_statistics(votes: Votes, *, num_bins: int) -> dict[str, Statistic]:
    """Metrics that need a gold answer, as functions of weights over the questions that have one."""
    rows = votes.has_gold
    confidence, correct = votes.vote_share[rows], votes.majority_correct[rows]
    margin = float(1 / (2 * votes.num_samples.max()))
    statistics: dict[str, Statistic] = {
        "avg": _mean_of(votes.correct_fraction[rows]),
        "maj": _mean_of(correct),
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
    if votes.is_choice[rows].all():  # classes are letters; free-form answers have none
        gold = np.array([answer for answer, has in zip(votes.gold, rows, strict=True) if has], dtype=str)
        statistics["balanced_accuracy"] = lambda w: balanced_accuracy(gold, correct, w)
    return statistics


def balanced_accuracy(gold: NDArray[np.str_], correct: Array, weights: Array) -> Array:
    """Mean over the gold classes of the accuracy within each; always one letter scores 1 / classes."""
    classes, codes = np.unique(gold, return_inverse=True)
    member = (codes[:, None] == np.arange(classes.size)).astype(np.float64)
    sizes = weights @ member
    hits = weights @ (member * correct[:, None])
    recall = np.divide(hits, sizes, out=np.full_like(hits, np.nan), where=sizes > 0)
    return np.nanmean(recall, axis=-1)


def majority_class(votes: Votes) -> dict[str, str | float] | None:
    """The commonest gold answer and its rate: what always answering it would score. None without a key."""
    gold = [answer for answer in votes.gold if answer is not None]
    if not gold:
        return None
    classes, counts = np.unique(np.array(gold, dtype=str), return_counts=True)
    best = int(np.argmax(counts))
    return {"answer": str(classes[best]), "rate": float(counts[best] / len(gold))}


def answer_rows(votes: Votes, letters: list[str]) -> Array:
    """Share of each question's samples giving each letter; shape (choice questions, letters + unparsable)."""
    rows = [given for given, is_choice in zip(votes.answers, votes.is_choice, strict=True) if is_choice]
    known = [*letters, None]
    shares = [[sum(answer == name for answer in given) / len(given) for name in known] for given in rows]
    return np.asarray(shares, dtype=np.float64).reshape(len(rows), len(known))


def answer_letters(*votes: Votes) -> list[str]:
    """All letters that anyone answers or the key holds, among multiple-choice questions."""
    found: set[str] = set()
    for one in votes:
        for given, gold, is_choice in zip(one.answers, one.gold, one.is_choice, strict=True):
            if is_choice:
                found.update(answer for answer in (*given, gold) if answer is not None)
    return sorted(found)


def total_variation(first: Array, second: Array) -> Array:
    """Half the sum of absolute differences along the last axis: the share of answers that moved."""
    return np.abs(first - second).sum(axis=-1) / 2


def _mean_of(values: Array) -> Statistic:
    return lambda weights: weights @ values / weights.sum(axis=-1)
