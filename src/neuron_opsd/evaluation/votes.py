"""Rollouts -> one row of numbers for each question, as arrays: what every metric is computed from.

Answers are grouped by equivalence, not by string, through `answers_match`. Unparsable answers (None) stay in
every denominator and form a group of their own: if it wins the vote, the majority answer is None, and that is
wrong. Ties go to the answer given first, in rollout order. Rows are sorted by question id, so the order of
the input changes nothing.

With `evaluation.exact` a question has the probabilities of its answers instead of votes. Each number is then what
samples would show in the mean, or what infinitely many of them would: the majority answer is the likeliest one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.evaluation.several import estimated_pass, exact_pass, expected_majority
from neuron_opsd.records import ExactRollout, OptionScores, Question, Rollout, TruthScore
from neuron_opsd.text.answers import LETTERS, answers_match, unify_answers

Array = NDArray[np.float64]
# How often each answer was given, in the order in which they were given first. Exact: the probability of each.
Tally = dict[str | None, float]
UNREAD_ROUNDING = 1e-6  # stored probabilities are float32, so their sum may miss 1 by a little


@dataclass(frozen=True, slots=True)
class Votes:
    """One model's samples on one set of questions. Every array and list has a row for each question.

    What says whether answers are right means something only where `has_gold` is true.
    """

    question_ids: list[str]
    is_choice: NDArray[np.bool_]  # multiple choice
    is_exact: bool  # probabilities, not counts of samples
    answers: list[tuple[str | None, ...]]  # each sample's answer, equivalent ones made equal. Exact: none
    shares: list[dict[str | None, float]]  # of the samples, for each answer
    majority: list[str | None]
    # The same, of the samples that each question has (`evaluation.stop_votes`).
    complete_majority: list[str | None]
    num_drawn: int  # samples of all questions
    num_samples: Array
    vote_share: Array  # votes of the majority answer / samples: the confidence
    parsed_fraction: Array
    completion_tokens: Array  # mean over samples
    truncated_fraction: Array
    answer_entropy: Array  # nats, over the question's samples
    has_gold: NDArray[np.bool_]
    gold: list[str | None]
    correct_fraction: Array  # its mean is Avg@k
    majority_correct: Array  # its mean is Maj@k, or the accuracy of the likeliest answer where exact
    voted_correct: Array  # the same where sampled. Exact: the chance that k samples vote for what is right
    pass_fraction: Array  # the chance that one of k samples is right. Its mean is pass@k
    num_ties: int  # questions whose vote was tied
    # The choices' probabilities are known. The next four mean something only there.
    has_options: NDArray[np.bool_]
    option_shares: list[Array]  # of each choice. Empty where they are not known
    option_confidence: Array  # the likeliest choice's
    option_mass: Array
    option_correct: Array
    has_truth: NDArray[np.bool_]  # the model was asked whether its majority answer is right
    truth_probability: Array  # how likely it calls it right

    def __len__(self) -> int:
        return len(self.question_ids)


def count_votes(
    questions: Sequence[Question],
    groups: Mapping[str, Sequence[Rollout]],
    answer_key: Mapping[str, str],
    options: Mapping[str, OptionScores] | None = None,
    truth: Mapping[str, TruthScore] | None = None,
    *,
    pass_k: int = 1,
    num_complete: int | None = None,
) -> Votes:
    """Tally these questions, each of which has rollouts in `groups`. `options` and `truth` may cover some of them.

    `pass_k` is the k of pass@k, and of Maj@k where answers are exact. Where votes stopped, each question has
    `num_complete` samples, and some have more. All of them vote. Every other figure is of the first `num_complete`,
    because a mean over samples that were drawn for others' answers would be biased.
    """
    options, truth = options or {}, truth or {}
    questions = sorted(questions, key=lambda question: question.question_id)
    polls = [
        _Poll(groups[question.question_id], answer_key.get(question.question_id), pass_k, num_complete)
        for question in questions
    ]
    scores = [options.get(question.question_id) for question in questions]
    truths = [truth.get(question.question_id) for question in questions]
    return Votes(
        question_ids=[question.question_id for question in questions],
        is_choice=_flags([bool(question.choices) for question in questions]),
        is_exact=any(poll.is_exact for poll in polls),
        answers=[poll.answers for poll in polls],
        shares=[poll.shares for poll in polls],
        majority=[poll.majority for poll in polls],
        complete_majority=[_likeliest(poll.tally) for poll in polls],
        num_drawn=sum(len(poll.drawn) for poll in polls),
        num_samples=_array([len(poll.group) for poll in polls]),
        vote_share=_array([poll.share(poll.majority) for poll in polls]),
        parsed_fraction=_array([poll.parsed_fraction for poll in polls]),
        completion_tokens=_array([_mean([len(r.completion_ids) for r in poll.group]) for poll in polls]),
        truncated_fraction=_array(
            [_mean([r.finish_reason == "length" for r in poll.group]) for poll in polls]
        ),
        answer_entropy=_array([_entropy(poll.tally, poll.total) for poll in polls]),
        has_gold=_flags([poll.gold is not None for poll in polls]),
        gold=[poll.gold for poll in polls],
        correct_fraction=_array([poll.num_right / poll.total for poll in polls]),
        majority_correct=_array([poll.majority_correct for poll in polls]),
        voted_correct=_array([poll.voted_correct for poll in polls]),
        pass_fraction=_array([poll.pass_fraction for poll in polls]),
        num_ties=sum(_is_tied(poll.all_tally) for poll in polls),
        has_truth=_flags([asked is not None for asked in truths]),
        truth_probability=_array([asked.probability if asked else np.nan for asked in truths]),
        has_options=_flags([score is not None for score in scores]),
        option_shares=[_array(score.probabilities if score else ()) for score in scores],
        option_confidence=_array([max(score.probabilities) if score else np.nan for score in scores]),
        option_mass=_array([score.option_mass if score else np.nan for score in scores]),
        option_correct=_array(
            [
                float(likeliest_option(score) == poll.gold) if score else np.nan
                for score, poll in zip(scores, polls, strict=True)
            ]
        ),
    )


@dataclass(frozen=True)
class _Poll:
    """One question's samples, counted. All that were drawn vote, every other figure is of `group`."""

    drawn: Sequence[Rollout]
    gold: str | None
    pass_k: int
    num_complete: int | None

    @property
    def group(self) -> Sequence[Rollout]:
        return self.drawn[: self.num_complete]

    @property
    def is_exact(self) -> bool:
        return isinstance(self.drawn[0], ExactRollout)

    @property
    def total(self) -> int:
        """What the counts of `tally` sum to."""
        return 1 if self.is_exact else len(self.group)

    @cached_property
    def all_tally(self) -> Tally:
        return _tally(self.drawn)

    @cached_property
    def tally(self) -> Tally:
        return _tally(self.group)

    @cached_property
    def right(self) -> set[str | None]:
        """The given answers that are right."""
        return {answer for answer in self.all_tally if answers_match(answer, self.gold)}

    @cached_property
    def num_right(self) -> float:
        """A probability where exact, else a count."""
        return sum(count for answer, count in self.tally.items() if answer in self.right)

    @property
    def majority(self) -> str | None:
        return _likeliest(self.all_tally)

    @property
    def majority_correct(self) -> float:
        return float(self.majority in self.right)

    @property
    def voted_correct(self) -> float:
        """The chance that `pass_k` samples vote for what is right. Of samples, whether they did."""
        if not self.is_exact:
            return self.majority_correct
        others = [value for answer, value in self.tally.items() if answer not in self.right]
        return expected_majority(self.num_right, others, self.pass_k)

    @property
    def pass_fraction(self) -> float:
        """The chance that one of `pass_k` samples is right."""
        if self.is_exact:
            return exact_pass(self.num_right, self.pass_k)
        return estimated_pass(round(self.num_right), len(self.group), self.pass_k)

    @property
    def parsed_fraction(self) -> float:
        return sum(count for answer, count in self.tally.items() if answer is not None) / self.total

    @property
    def answers(self) -> tuple[str | None, ...]:
        """Each sample's, equivalent ones made equal. Exact: none."""
        return () if self.is_exact else unify_answers([rollout.answer for rollout in self.group])

    @property
    def shares(self) -> dict[str | None, float]:
        return {answer: count / self.total for answer, count in self.tally.items()}

    def share(self, answer: str | None) -> float:
        return self.tally.get(answer, 0) / self.total


def _likeliest(tally: Tally) -> str | None:
    """The answer given most often. Of tied answers the one given first."""
    return max(tally, key=tally.__getitem__)


def _tally(group: Sequence[Rollout]) -> Tally:
    """How often each answer was given, equivalent ones counted together, in the order in which they were given first.

    Exact: the probability of each, the mean over the orders of the choices.
    """
    exact = [rollout.answer_probabilities for rollout in group if isinstance(rollout, ExactRollout)]
    if not exact:
        return dict(Counter(unify_answers([rollout.answer for rollout in group])))
    means = [_mean(column) for column in zip(*exact, strict=True)]
    answers: dict[str | None, float] = {LETTERS[i]: value for i, value in enumerate(means) if value > 0}
    unread = 1 - sum(means)
    return answers | ({None: unread} if unread > UNREAD_ROUNDING else {})


def likeliest_option(score: OptionScores) -> str:
    """Its letter. Of equally likely choices the first."""
    return LETTERS[score.probabilities.index(max(score.probabilities))]


def answers_flipped(before: Votes, after: Votes) -> Array:
    """1 where the majority answer of a question changed, None to None not counted as a change."""
    pairs = zip(before.complete_majority, after.complete_majority, strict=True)
    return _array([float(a != b and not answers_match(a, b)) for a, b in pairs])


def resampled_flips(before: Votes, after: Votes, *, num_permutations: int, seed: int | list[int]) -> Array:
    """Share of majority answers that flip when nothing but sampling differs, one value per permutation.

    Each permutation pools a question's samples of both models and deals them out again at random.
    Exchangeable samples are what "training changed nothing" means, so these are draws under that hypothesis.
    """
    pooled = [unify_answers((*a, *b)) for a, b in zip(before.answers, after.answers, strict=True)]
    sizes = [len(given) for given in before.answers]
    generator = np.random.default_rng(seed)
    shares = np.zeros(num_permutations)
    for given, size in zip(pooled, sizes, strict=True):
        if len(set(given)) > 1:  # a question with one answer throughout cannot flip
            shares += _flips_of_question(given, size, num_permutations, generator)
    return shares / max(len(pooled), 1)


def _flips_of_question(
    given: Sequence[str | None], size: int, num_permutations: int, generator: np.random.Generator
) -> Array:
    order = {answer: code for code, answer in enumerate(dict.fromkeys(given))}
    codes = np.array([order[answer] for answer in given])
    dealt = generator.permuted(np.tile(codes, (num_permutations, 1)), axis=1)
    return (
        _majority_codes(dealt[:, :size], len(order)) != _majority_codes(dealt[:, size:], len(order))
    ).astype(float)


def _majority_codes(dealt: NDArray[np.int64], num_codes: int) -> NDArray[np.int64]:
    """The most frequent code of each row, of tied codes the one that comes first in the row."""
    is_code: NDArray[np.bool_] = dealt[:, :, None] == np.arange(num_codes)
    size = int(dealt.shape[1])
    first: NDArray[np.int64] = is_code.argmax(axis=1)
    first_at = np.where(is_code.any(axis=1), first, size)
    return np.argmax(is_code.sum(axis=1) * (size + 1) - first_at, axis=1)


def _entropy(tally: Tally, total: float) -> float:
    shares = _array(list(tally.values())) / total
    return float(-(shares * np.log(shares)).sum()) + 0.0  # no -0.0


def _is_tied(tally: Tally) -> bool:
    counts = sorted(tally.values(), reverse=True)
    return len(counts) > 1 and counts[0] == counts[1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _flags(values: Sequence[bool]) -> NDArray[np.bool_]:
    return np.asarray(values, dtype=bool)


def _array(values: Sequence[float]) -> Array:
    return np.asarray(values, dtype=np.float64)
