"""Neuron sets + rollouts -> selected questions. Few neurons = high consensus = probably right (section 4).

Ranks within each domain. Ties go to the smaller question id, so file order changes nothing.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

from neuron_opsd.config import SelectionSettings
from neuron_opsd.errors import DataError
from neuron_opsd.records import NeuronSets, Question, SelectedQuestion
from neuron_opsd.selection.score import READS_NEURONS, length_residuals, num_kept, ranking_scores
from neuron_opsd.text.answers import Vote

logger = logging.getLogger(__name__)


def select_questions(
    questions: Sequence[Question],
    neuron_sets: Sequence[NeuronSets],
    votes: Mapping[str, Vote],
    settings: SelectionSettings,
    *,
    seed: int,
    mean_log_probs: Mapping[str, float | None] | None = None,
    left_out: Collection[str] = (),
) -> list[SelectedQuestion]:
    """Score, rank and mark every question of the pool.

    A question of whose reply no neuron was read has no consensus score. Where that is the score, it is ranked behind
    all others and never selected.

    Args:
        questions: The pool.
        neuron_sets: One for each question.
        votes: One for each question. Shares count only where two rollouts or more voted.
        settings: `selection.*`.
        seed: The run's seed (for the random control).
        mean_log_probs: Of a token of each question's first rollout, in nats. None of an empty one. Only the score
            `log_prob` needs them.
        left_out: Questions that are ranked behind all others and never selected (`usable_only`).

    Returns:
        One record for each question, in the order of `questions`.

    Raises:
        DataError: every question of a domain is left out or unread, or `mean_log_probs` is needed and not given.
    """
    by_id = {item.question_id: item for item in neuron_sets}
    if settings.score in READS_NEURONS:
        left_out = {*left_out, *unread_ids(neuron_sets)}
    domains: dict[str, list[NeuronSets]] = {}
    for question in questions:
        domains.setdefault(question.domain, []).append(by_id[question.question_id])
    ranked = {
        record.question_id: record
        for domain, sets in domains.items()
        for record in _rank_domain(
            domain, sets, votes, settings, seed=seed, mean_log_probs=mean_log_probs, left_out=left_out
        )
    }
    return [ranked[question.question_id] for question in questions]


def unread_ids(neuron_sets: Sequence[NeuronSets]) -> frozenset[str]:
    """The questions of whose reply no neuron was read: it is empty, or was cut before its answer."""
    return frozenset(item.question_id for item in neuron_sets if not item.num_chunks)


def count_unusable(
    records: Sequence[SelectedQuestion], unusable: Collection[str], unread: Collection[str] = ()
) -> dict[str, int]:
    """How many questions, and how many of those selected, have a reply that was cut or cannot be read.

    And of how many no neuron was read: those no score by neurons selects.
    """
    selected = [record.question_id for record in records if record.selected]
    return {
        "num_questions": len(records),
        "num_unusable": len(unusable),
        "num_without_neurons": len(unread),
        "num_selected": len(selected),
        "num_selected_unusable": sum(question_id in unusable for question_id in selected),
    }


def warn_of_unusable(counts: Mapping[str, int]) -> None:
    """Say so where some selected ones are: s(x) is lowest for long replies, so for those that were cut.

    And where some could not be ranked at all.
    """
    if counts["num_without_neurons"]:
        logger.warning(
            "selection: of %(num_questions)d questions in the pool %(num_without_neurons)d have a reply without tokens "
            "to read neurons from (empty, or cut inside its thinking). No score by neurons ranks them. Raise "
            "rollouts.max_new_tokens, or set neurons.tokens=all.",
            counts,
        )
    if counts["num_selected_unusable"]:
        logger.warning(
            "selection: of %(num_selected)d selected questions %(num_selected_unusable)d have a reply that was cut or "
            "gives no readable answer (of %(num_questions)d in the pool, %(num_unusable)d). selection.usable_only=true "
            "and contexts.usable_only=true leave them out.",
            counts,
        )


def _rank_domain(
    domain: str,
    sets: list[NeuronSets],
    votes: Mapping[str, Vote],
    settings: SelectionSettings,
    *,
    seed: int,
    mean_log_probs: Mapping[str, float | None] | None,
    left_out: Collection[str],
) -> list[SelectedQuestion]:
    residuals = length_residuals(sets)
    scores = ranking_scores(sets, residuals, votes, settings, seed=seed, mean_log_probs=mean_log_probs)
    order = sorted(
        range(len(sets)), key=lambda i: (sets[i].question_id in left_out, scores[i], sets[i].question_id)
    )
    rank_of = {i: rank for rank, i in enumerate(order)}
    num_candidates = sum(item.question_id not in left_out for item in sets)
    if sets and not num_candidates:
        is_read = any(item.num_chunks for item in sets)
        what = "selection.usable_only" if is_read else "neurons.tokens=answer"
        raise DataError(
            f"{what} left no question of domain {domain}: all {len(sets)} replies were cut or give no readable answer. "
            "Raise rollouts.max_new_tokens, or change prompts.answer_format or prompts.system."
        )
    kept = _kept_ranks(num_candidates, num_kept(len(sets), settings.fraction), settings.keep)
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


def _kept_ranks(num_candidates: int, count: int, keep: str) -> range:
    count = min(count, num_candidates)
    spare = num_candidates - count
    first = {"lowest": 0, "highest": spare, "middle": spare // 2}[keep]
    return range(first, first + count)


def _vote_share(vote: Vote | None) -> float | None:
    return vote.share if vote and vote.total > 1 and vote.answer is not None else None
