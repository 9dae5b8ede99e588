"""Votes over rollouts of the frozen model: pseudo-labels and vote shares. No gold answer.

Answers are grouped by equivalence, not by string. An unparsable answer never wins, though it stays in the denominator;
of tied answers the one sampled first wins.
"""

import math
from collections.abc import Iterable, Mapping

from neuron_opsd.records import Rollout
from neuron_opsd.text.answers import Vote, answers_match, majority_answer


def group_by_question(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    """Rollouts of each question, in rollout order; questions in order of appearance."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.question_id, []).append(rollout)
    return {key: sorted(group, key=lambda rollout: rollout.rollout_index) for key, group in groups.items()}


def vote(rollouts: Iterable[Rollout]) -> dict[str, Vote]:
    """The pseudo-label of each question, with its votes; answer None where nothing was parsable."""
    answers: dict[str, list[tuple[int, str | None]]] = {}  # without the rollouts, which may not fit in memory
    for rollout in rollouts:
        answers.setdefault(rollout.question_id, []).append((rollout.rollout_index, rollout.answer))
    return {
        key: majority_answer(
            [answer for _, answer in sorted(group, key=lambda pair: pair[0])], skip_unparsable=True
        )
        for key, group in answers.items()
    }


def agreeing_rollouts(
    rollouts: Iterable[Rollout], labels: Mapping[str, str] | None = None
) -> dict[str, list[Rollout]]:
    """The rollouts that give each question's label, by default its pseudo-label. None if it has no label."""
    groups = group_by_question(rollouts)
    if labels is None:
        votes = {
            key: majority_answer([r.answer for r in group], skip_unparsable=True)
            for key, group in groups.items()
        }
        labels = {key: vote.answer for key, vote in votes.items() if vote.answer is not None}
    return {
        key: [rollout for rollout in group if answers_match(rollout.answer, labels.get(key))]
        for key, group in groups.items()
    }


def likeliest_agreeing(rollouts: Iterable[Rollout]) -> dict[str, Rollout]:
    """Of each question with a pseudo-label, of the rollouts that give it that of the highest mean log-probability.

    The mean of its tokens, because their sum would choose the shortest reply. Of equal ones the first.
    """

    def mean(rollout: Rollout) -> float:
        value = rollout.mean_log_prob
        return -math.inf if value is None else value

    return {key: max(group, key=mean) for key, group in agreeing_rollouts(rollouts).items() if group}
