"""Zero-shot rollouts of the pool + gold answers -> the share of right ones for each question, for the report's figures.

Read after training, for people: no score, selection or loss ever sees it.
"""

from collections.abc import Mapping, Sequence

from neuron_opsd.evaluation.votes import count_votes
from neuron_opsd.records import Question, Rollout
from neuron_opsd.results import PoolQuestion
from neuron_opsd.rollouts.pseudo_label import group_by_question


def score_pool(
    questions: Sequence[Question], rollouts: Sequence[Rollout], key: Mapping[str, str]
) -> tuple[PoolQuestion, ...]:
    """A row for each question that has rollouts and a gold answer, by id: the share of its rollouts that are right."""
    groups = group_by_question(rollouts)
    scored = [q for q in questions if q.question_id in key and q.question_id in groups]
    votes = count_votes(scored, groups, key)
    return tuple(map(PoolQuestion, votes.question_ids, votes.correct_fraction.tolist()))
