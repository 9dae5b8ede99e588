"""What a run shows the teacher: which replies, of which questions, and how alike these are."""

from collections import Counter
from collections.abc import Mapping, Sequence

from numpy.typing import NDArray

from neuron_opsd.contexts.build import permuted_replies
from neuron_opsd.contexts.neighbours import Neighbours, find_neighbours
from neuron_opsd.preflight.verdict import same_template_share
from neuron_opsd.questions.duplicates import template_key
from neuron_opsd.records import Question, Rollout, TeacherContext
from neuron_opsd.rollouts.pseudo_label import likeliest_agreeing
from neuron_opsd.run.session import Workbench
from neuron_opsd.run.shards import make_sharded
from neuron_opsd.sharded_stages import SampledStage


def demonstrating_replies(bench: Workbench) -> dict[str, Rollout]:
    """The reply that each question would demonstrate with; permuted among the questions for that control."""
    retrieval = bench.config.contexts.retrieval
    if retrieval == "other_domain":
        rollouts = {r.question_id: r for r in bench.folder.stage("demonstrations").read(Rollout)}
    elif retrieval == "own_majority":
        rollouts = likeliest_agreeing(bench.folder.stage("rollouts").iterate(Rollout))
    else:
        rollouts = bench.first_rollouts()
    if bench.config.contexts.usable_only:
        rollouts = {question_id: rollout for question_id, rollout in rollouts.items() if rollout.is_usable}
    if bench.config.contexts.replies == "permuted":
        return permuted_replies(rollouts, seed=bench.config.seed)
    return rollouts


def neighbours_in(
    bench: Workbench,
    queries: Sequence[Question],
    replies: Mapping[str, Rollout],
    overlap_sets: Mapping[str, NDArray],
) -> Neighbours:
    """`find_neighbours` among the questions of a run that may demonstrate."""
    return find_neighbours(
        queries,
        bench.other_questions or bench.pool,
        {question_id: rollout.reply for question_id, rollout in replies.items()},
        bench.config.contexts,
        overlap_sets=overlap_sets,
        base_model=bench.base_model,
        seed=bench.config.seed,
    )


def template_shares(
    bench: Workbench, queries: Sequence[Question], contexts: Sequence[TeacherContext]
) -> dict[str, float | None]:
    """How many demonstrations are of their question's own template, and how many random ones would be (1: all).

    Of one template are questions that open with the same words once numbers and names are masked (`template_key`).
    """
    candidates = {question.question_id: question for question in bench.other_questions or bench.pool}
    known = candidates | {question.question_id: question for question in queries}
    counts = Counter(template_key(question.question) for question in candidates.values())
    by_chance = []
    for query in queries:
        is_candidate = query.question_id in candidates
        others = len(candidates) - is_candidate
        if others:
            by_chance.append((counts[template_key(query.question)] - is_candidate) / others)
    return {
        "same_template_fraction": same_template_share(contexts, known, template_key),
        "same_template_by_chance": sum(by_chance) / len(by_chance) if by_chance else None,
    }


def make_other_replies(bench: Workbench) -> None:
    """The frozen model's replies to the questions of another domain, where these are to demonstrate."""
    if bench.other_questions:
        make_sharded(SampledStage(bench, "demonstrations"))
