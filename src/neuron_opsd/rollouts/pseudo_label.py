"""Votes of groups of answers: pseudo-labels and vote shares. No model, no gold answer.

Answers are grouped by equivalence, not by string. An unparsable answer never wins, though it stays in the denominator.
Of tied answers the one sampled first wins.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from neuron_opsd.records import Rollout
from neuron_opsd.text.answers import Vote, answers_match, majority_answer

Group = TypeVar("Group", bound=Hashable)
AnyRollout = TypeVar("AnyRollout", bound=Rollout)


def group_by_question(rollouts: Iterable[AnyRollout]) -> dict[str, list[AnyRollout]]:
    """Rollouts of each question, in rollout order. Questions in order of appearance."""
    groups: dict[str, list[AnyRollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.question_id, []).append(rollout)
    return {key: sorted(group, key=lambda rollout: rollout.rollout_index) for key, group in groups.items()}


def votes_of_groups(answers: Iterable[tuple[Group, int, str | None]]) -> dict[Group, Vote]:
    """The vote of each group, from (group, place in it, answer). Groups in order of appearance."""
    groups: dict[Group, list[tuple[int, str | None]]] = {}
    for group, place, answer in answers:
        groups.setdefault(group, []).append((place, answer))
    return {
        group: majority_answer(
            [answer for _, answer in sorted(given, key=lambda pair: pair[0])], skip_unparsable=True
        )
        for group, given in groups.items()
    }


def vote(rollouts: Iterable[Rollout]) -> dict[str, Vote]:
    """The pseudo-label of each question, with its votes. Answer None where nothing was parsable."""
    return votes_of_groups((r.question_id, r.rollout_index, r.answer) for r in rollouts)


def agreeing_rollouts(
    rollouts: Iterable[Rollout], labels: Mapping[str, str] | None = None
) -> dict[str, list[Rollout]]:
    """The rollouts that give each question's label, by default its pseudo-label. None if it has no label."""
    groups = group_by_question(rollouts)
    if labels is None:
        votes = vote(rollout for group in groups.values() for rollout in group)
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
