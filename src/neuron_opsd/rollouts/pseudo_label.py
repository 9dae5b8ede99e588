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
    answers: dict[str, list[tuple[int, str | None]]] = {}  # without the rollouts, which may not fit in memory
    for rollout in rollouts:
        answers.setdefault(rollout.question_id, []).append((rollout.rollout_index, rollout.answer))
    return {
        key: majority_answer(
            [answer for _, answer in sorted(group, key=lambda pair: pair[0])], skip_unparsable=True
        )
        for key, group in answers.items()
    }
