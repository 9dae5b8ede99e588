"""Votes over rollouts of the frozen model: pseudo-labels and vote shares. No gold answer.

An unparsable answer never wins, though it stays in the denominator; of tied answers the one sampled first wins.
"""

from collections.abc import Iterable

from neuron_opsd.records import Rollout
from neuron_opsd.text.answers import Vote, majority_answer


def group_by_question(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    """Rollouts of each question, in rollout order; questions in order of appearance."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.question_id, []).append(rollout)
    return {key: sorted(group, key=lambda rollout: rollout.rollout_index) for key, group in groups.items()}


def vote(rollouts: Iterable[Rollout]) -> dict[str, Vote]:
    """The pseudo-label of each question, with its votes; answer None where nothing was parsable."""
    groups = group_by_question(rollouts)
    return {
        key: majority_answer([rollout.answer for rollout in group], skip_unparsable=True)
        for key, group in groups.items()
    }
