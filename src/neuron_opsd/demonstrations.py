"""Which questions demonstrate to a question: the nearest by neurons, words or embeddings, random ones, or it itself.

It stands above the stages, because overlap sets are one stage's records and contexts another's.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from numpy.typing import NDArray

from neuron_opsd.contexts.build import can_demonstrate, permuted_replies, random_neighbours
from neuron_opsd.contexts.embeddings import nearest_by_embedding
from neuron_opsd.contexts.words import nearest_by_words
from neuron_opsd.neurons.overlap import nearest_neighbours
from neuron_opsd.preflight.verdict import same_template_share
from neuron_opsd.questions.duplicates import near_duplicates, template_key
from neuron_opsd.records import Question, Rollout, TeacherContext
from neuron_opsd.rollouts.pseudo_label import likeliest_agreeing
from neuron_opsd.run.session import Workbench
from neuron_opsd.run.shards import make_sharded
from neuron_opsd.sharded_stages import SampledStage

logger = logging.getLogger(__name__)

Neighbours = dict[str, list[tuple[str, float]]]  # question id -> (neighbour's id, distance), nearest first


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


def find_neighbours(
    bench: Workbench,
    queries: Sequence[Question],
    replies: Mapping[str, Rollout],
    overlap_sets: Mapping[str, NDArray],
) -> Neighbours:
    """For each question, those whose reply can be shown to it, near-duplicates left out.

    With `retrieval: own_majority` it is the question itself; one without a majority answer to show is left out.

    Args:
        bench: The run.
        queries: Of the pool or not.
        replies: Of every question that may demonstrate (`demonstrating_replies`).
        overlap_sets: Of the pool and the queries, by id; read for `retrieval: neuron_overlap` alone.
    """
    settings, count = bench.config.contexts, bench.config.contexts.num_demonstrations
    candidates = bench.other_questions or bench.pool

    def is_shown(question: Question) -> bool:
        reply = replies.get(question.question_id)
        return reply is not None and can_demonstrate(reply.reply)

    shown = [question for question in candidates if is_shown(question)]
    if len(shown) < len(candidates):
        logger.warning("contexts: %d questions have no reply to show", len(candidates) - len(shown))
    if settings.retrieval == "own_majority":
        return {query.question_id: [(query.question_id, 0.0)] for query in queries if is_shown(query)}
    everyone = list({question.question_id: question for question in [*candidates, *queries]}.values())
    place = {question.question_id: i for i, question in enumerate(everyone)}
    excluded = _excluded(everyone, shown, threshold=settings.near_duplicate_threshold)
    if settings.retrieval in ("random", "other_domain"):
        return random_neighbours(
            [query.question_id for query in queries], [q.question_id for q in shown], count,
            is_excluded=lambda a, b: place[b] in excluded(place[a]), seed=bench.config.seed,
        )  # fmt: skip
    asked = [place[query.question_id] for query in queries]
    if settings.retrieval == "tfidf":
        indices, distances = nearest_by_words(everyone, count, queries=asked, exclude=excluded)
    elif settings.retrieval == "embedding":
        model, tokenizer = bench.base_model()
        indices, distances = nearest_by_embedding(
            everyone, count, model=model, tokenizer=tokenizer, queries=asked, exclude=excluded
        )
    else:
        indices, distances = nearest_neighbours(
            [overlap_sets[question.question_id] for question in everyone],
            count,
            queries=asked,
            exclude=lambda i: sorted(excluded(i)),
            num_candidates=settings.search_candidates,
        )
    return {
        query.question_id: [
            (everyone[j].question_id, float(d)) for j, d in zip(row, row_distances, strict=True) if j >= 0
        ]
        for query, row, row_distances in zip(queries, indices, distances, strict=True)
    }


def _excluded(
    everyone: Sequence[Question], shown: Sequence[Question], *, threshold: float
) -> Callable[[int], set[int]]:
    """Places that may not demonstrate to a place: near-duplicates of it, and what has no reply to show."""
    alike = {i: set[int]() for i in range(len(everyone))}
    for i, j in near_duplicates(everyone, threshold=threshold):
        alike[i].add(j)
        alike[j].add(i)
    can_be_shown = {question.question_id for question in shown}
    silent = {i for i, question in enumerate(everyone) if question.question_id not in can_be_shown}
    return lambda place: alike[place] | silent


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
