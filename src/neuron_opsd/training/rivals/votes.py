"""Pseudo-labels of groups of answers: grouped by equivalence, not by string. No model, no gold answer.

An answer that cannot be read never wins and stays in the denominator. Of tied answers the one given first wins. A group
in which nothing can be read has no pseudo-label, and rewards nobody.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from neuron_opsd.rollouts.pseudo_label import votes_of_groups
from neuron_opsd.text.answers import Vote, answers_match

Answer = str | None


def votes_of_whole_groups(everyone: Sequence[tuple[int, Answer]], num_rollouts: int) -> dict[int, Vote]:
    """The vote of each group from (group, answer) pairs of ALL processes: TRL splits a prompt's group among them.

    Raises:
        ValueError: a group is not whole, so its vote would be another one.
    """
    for group, count in Counter(group for group, _ in everyone).items():
        if count != num_rollouts:
            raise ValueError(f"group {group} has {count} answers of {num_rollouts}. A vote needs all of them")
    return votes_of_groups((group, place, answer) for place, (group, answer) in enumerate(everyone))


def agreements(own: Sequence[tuple[int, Answer]], votes: Mapping[int, Vote]) -> list[float]:
    """1 for each answer that is its group's pseudo-label, else 0."""
    return [float(answers_match(answer, votes[group].answer)) for group, answer in own]
