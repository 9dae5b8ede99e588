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

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.evaluation.several import estimated_pass, exact_pass, expected_majority
from neuron_opsd.records import ExactRollout, OptionScores, Question, Rollout, TruthScore
from neuron_opsd.text.answers import LETTERS, answers_match, unify_answers

Array = NDArray[np.float64]
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
    complete_majority: list[
        str | None
    ]  # the same, of the samples that each question has (`evaluation.stop_votes`)
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
    has_options: NDArray[
        np.bool_
    ]  # the choices' probabilities are known. The next four mean something only there
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
    gold = [answer_key.get(question.question_id) for question in questions]
    drawn = [groups[question.question_id] for question in questions]
    all_tallies = [_tally(group) for group in drawn]
    majority = _majorities(all_tallies)
    rollouts = [group[:num_complete] for group in drawn]
    tallies = [_tally(group) for group in rollouts]
    totals = [1 if _is_exact(group) else len(group) for group in rollouts]
    right = [
        {answer for answer in tally if answers_match(answer, g)}
        for tally, g in zip(all_tallies, gold, strict=True)
    ]
    majority_correct = [float(answer in own) for answer, own in zip(majority, right, strict=True)]
    scores = [options.get(question.question_id) for question in questions]
    return Votes(
        question_ids=[question.question_id for question in questions],
        is_choice=np.array([bool(question.choices) for question in questions], dtype=bool),
        is_exact=any(map(_is_exact, rollouts)),
        answers=[() if _is_exact(group) else unify_answers([r.answer for r in group]) for group in rollouts],
        shares=[
            {answer: count / total for answer, count in tally.items()}
            for tally, total in zip(tallies, totals, strict=True)
        ],
        majority=majority,
        complete_majority=_majorities(tallies),
        num_drawn=sum(map(len, drawn)),
        num_samples=_array([len(group) for group in rollouts]),
        vote_share=_array(
            [tally.get(answer, 0) / n for answer, tally, n in zip(majority, tallies, totals, strict=True)]
        ),
        parsed_fraction=_array(
            [
                sum(count for answer, count in tally.items() if answer is not None) / total
                for tally, total in zip(tallies, totals, strict=True)
            ]
        ),
        completion_tokens=_array([_mean([len(r.completion_ids) for r in group]) for group in rollouts]),
        truncated_fraction=_array(
            [_mean([r.finish_reason == "length" for r in group]) for group in rollouts]
        ),
        answer_entropy=_array([_entropy(tally, n) for tally, n in zip(tallies, totals, strict=True)]),
        has_gold=np.array([answer is not None for answer in gold], dtype=bool),
        gold=gold,
        correct_fraction=_array(
            [
                sum(tally[answer] for answer in tally if answer in own) / total
                for tally, total, own in zip(tallies, totals, right, strict=True)
            ]
        ),
        majority_correct=_array(majority_correct),
        voted_correct=_array(
            [
                _voted(tally, own, pass_k) if _is_exact(group) else is_right
                for group, tally, own, is_right in zip(
                    rollouts, tallies, right, majority_correct, strict=True
                )
            ]
        ),
        pass_fraction=_array(
            [
                _passes(group, sum(tally.get(answer, 0) for answer in own), pass_k)
                for group, tally, own in zip(rollouts, tallies, right, strict=True)
            ]
        ),
        num_ties=sum(_is_tied(tally) for tally in all_tallies),
        has_truth=np.array([question.question_id in truth for question in questions], dtype=bool),
        truth_probability=_array(
            [truth[q.question_id].probability if q.question_id in truth else np.nan for q in questions]
        ),
        has_options=np.array([score is not None for score in scores], dtype=bool),
        option_shares=[_array(s.probabilities if s else ()) for s in scores],
        option_confidence=_array([max(s.probabilities) if s else np.nan for s in scores]),
        option_mass=_array([s.option_mass if s else np.nan for s in scores]),
        option_correct=_array(
            [float(likeliest_option(s) == g) if s else np.nan for s, g in zip(scores, gold, strict=True)]
        ),
    )


def _majorities(tallies: Sequence[Mapping[str | None, float]]) -> list[str | None]:
    """Of tied answers the one given first."""
    return [max(tally, key=tally.__getitem__) for tally in tallies]


def _is_exact(group: Sequence[Rollout]) -> bool:
    return isinstance(group[0], ExactRollout)


def _tally(group: Sequence[Rollout]) -> dict[str | None, float]:
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


def _voted(tally: Mapping[str | None, float], right: set[str | None], k: int) -> float:
    """The chance that k samples vote for what is right, from the probabilities of the answers."""
    others = [value for answer, value in tally.items() if answer not in right]
    return expected_majority(sum(tally[answer] for answer in right), others, k)


def _passes(group: Sequence[Rollout], right: float, k: int) -> float:
    """The chance that one of k samples is right. `right` is a probability where exact, else a count."""
    return exact_pass(right, k) if _is_exact(group) else estimated_pass(round(right), len(group), k)


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


def _entropy(tally: Mapping[str | None, float], total: float) -> float:
    shares = _array(list(tally.values())) / total
    return float(-(shares * np.log(shares)).sum()) + 0.0  # no -0.0


def _is_tied(tally: Mapping[str | None, float]) -> bool:
    counts = sorted(tally.values(), reverse=True)
    return len(counts) > 1 and counts[0] == counts[1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _array(values: Sequence[float]) -> Array:
    return np.asarray(values, dtype=np.float64)
