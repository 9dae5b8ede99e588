"""Stage: neuron sets + rollouts -> selected questions. Few neurons = high consensus = probably right (section 4).

Ranks within each domain; ties go to the smaller question id, so file order changes nothing.
"""

from collections.abc import Mapping, Sequence

from neuron_opsd.config import SelectionSettings
from neuron_opsd.records import NeuronSets, Question, SelectedQuestion
from neuron_opsd.selection.score import length_residuals, num_kept, ranking_scores
from neuron_opsd.text.answers import Vote


def select_questions(
    questions: Sequence[Question],
    neuron_sets: Sequence[NeuronSets],
    votes: Mapping[str, Vote],
    settings: SelectionSettings,
    *,
    seed: int,
) -> list[SelectedQuestion]:
    """Score, rank and mark every question of the pool.

    Args:
        questions: The pool.
        neuron_sets: One for each question.
        votes: One for each question; shares count only where two rollouts or more voted.
        settings: `selection.*`.
        seed: The run's seed (for the random control).

    Returns:
        One record for each question, in the order of `questions`.
    """
    by_id = {item.question_id: item for item in neuron_sets}
    domains: dict[str, list[NeuronSets]] = {}
    for question in questions:
        domains.setdefault(question.domain, []).append(by_id[question.question_id])
    ranked = {
        record.question_id: record
        for domain, sets in domains.items()
        for record in _rank_domain(domain, sets, votes, settings, seed=seed)
    }
    return [ranked[question.question_id] for question in questions]


def _rank_domain(
    domain: str, sets: list[NeuronSets], votes: Mapping[str, Vote], settings: SelectionSettings, *, seed: int
) -> list[SelectedQuestion]:
    residuals = length_residuals(sets)
    scores = ranking_scores(sets, residuals, votes, settings, seed=seed)
    order = sorted(range(len(sets)), key=lambda i: (scores[i], sets[i].question_id))
    rank_of = {i: rank for rank, i in enumerate(order)}
    kept = _kept_ranks(len(sets), settings)
    return [
        SelectedQuestion(
            question_id=item.question_id,
            domain=domain,
            num_completion_tokens=item.num_completion_tokens,
            consensus_score=float(item.consensus_score),
            consensus_score_length_residualised=residuals[i],
            vote_share=_vote_share(votes.get(item.question_id)),
            score=scores[i],
            rank=rank_of[i],
            selected=rank_of[i] in kept,
        )
        for i, item in enumerate(sets)
    ]


def _kept_ranks(num_questions: int, settings: SelectionSettings) -> range:
    count = num_kept(num_questions, settings.fraction)
    first = {"lowest": 0, "highest": num_questions - count, "middle": (num_questions - count) // 2}[
        settings.keep
    ]
    return range(first, first + count)


def _vote_share(vote: Vote | None) -> float | None:
    return vote.share if vote and vote.total > 1 and vote.answer is not None else None
