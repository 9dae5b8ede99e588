"""Pseudo-labels of groups of answers: grouped by equivalence, not by string. No model, no gold answer.

An answer that cannot be read never wins and stays in the denominator; of tied answers the one given first wins; a group
in which nothing can be read has no pseudo-label, and rewards nobody.
"""

from collections.abc import Mapping, Sequence

from neuron_opsd.text.answers import Vote, answers_match, majority_answer

Answer = str | None


def votes_of_groups(everyone: Sequence[tuple[int, Answer]], num_rollouts: int) -> dict[int, Vote]:
    """The vote of each group from (group, answer) pairs of ALL processes: TRL splits a prompt's group among them.

    Raises:
        ValueError: a group is not whole, so its vote would be another one.
    """
    groups: dict[int, list[Answer]] = {}
    for group, answer in everyone:
        groups.setdefault(group, []).append(answer)
    for group, given in groups.items():
        if len(given) != num_rollouts:
            raise ValueError(
                f"group {group} has {len(given)} answers of {num_rollouts}; a vote needs all of them"
            )
    return {group: majority_answer(given, skip_unparsable=True) for group, given in groups.items()}


def agreements(own: Sequence[tuple[int, Answer]], votes: Mapping[int, Vote]) -> list[float]:
    """1 for each answer that is its group's pseudo-label, else 0."""
    return [float(answers_match(answer, votes[group].answer)) for group, answer in own]
