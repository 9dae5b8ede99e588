"""Which questions demonstrate to a question: the nearest by neurons, words or embeddings, random ones, or it itself.

A function of records alone. The stage, the contexts of test questions and experiments/context_study.py call it.
"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import ContextSettings
from neuron_opsd.contexts.embeddings import nearest_by_embedding
from neuron_opsd.contexts.words import nearest_by_words
from neuron_opsd.model.load import CausalLM
from neuron_opsd.neurons.medoids import MAX_SETS, k_medoids
from neuron_opsd.neurons.overlap import jaccard_distance, nearest_neighbours, pairwise_distances
from neuron_opsd.questions.duplicates import near_duplicates
from neuron_opsd.questions.load import domains_of
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Question
from neuron_opsd.text.thinking import strip_thinking

logger = logging.getLogger(__name__)

Neighbours = dict[str, list[tuple[str, float]]]  # question id -> (neighbour's id, distance), nearest first


def find_neighbours(
    queries: Sequence[Question],
    candidates: Sequence[Question],
    replies: Mapping[str, str],
    settings: ContextSettings,
    *,
    overlap_sets: Mapping[str, NDArray[Any]],
    base_model: Callable[[], tuple[CausalLM, PreTrainedTokenizerBase]],
    seed: int,
) -> Neighbours:
    """For each query, the candidates whose reply can be shown to it, near-duplicates of it left out.

    With `retrieval: own_majority` it is the query itself. One without a majority answer to show is left out.

    Args:
        queries: Candidates or not.
        candidates: The questions that may demonstrate.
        replies: What each of them would show, by id. A question without one does not demonstrate.
        settings: Says how neighbours are found, and how many.
        overlap_sets: Of candidates and queries, by id. Read for `neuron_overlap` and `medoids` alone.
        base_model: Loads the model that embeds. Called for `retrieval: embedding` alone.
        seed: Of the run, for what is drawn.
    """
    count = settings.num_demonstrations
    shown = {q.question_id for q in candidates if can_demonstrate(replies.get(q.question_id, ""))}
    if len(shown) < len(candidates):
        logger.warning("contexts: %d questions have no reply to show", len(candidates) - len(shown))
    if settings.retrieval == "own_majority":
        return {q.question_id: [(q.question_id, 0.0)] for q in queries if q.question_id in shown}
    everyone = list({question.question_id: question for question in [*candidates, *queries]}.values())
    place = {question.question_id: i for i, question in enumerate(everyone)}
    excluded = _excluded(everyone, shown, threshold=settings.near_duplicate_threshold)
    if settings.retrieval in ("random", "other_domain"):
        return random_neighbours(
            [query.question_id for query in queries], sorted(shown), count,
            is_excluded=lambda a, b: place[b] in excluded(place[a]), seed=seed,
        )  # fmt: skip
    if settings.retrieval in ("medoids", "fixed_random"):
        fixed = fixed_questions(
            sorted(shown), count, settings.retrieval, overlap_sets=overlap_sets, seed=seed
        )
        return {
            query.question_id: [
                (other, distance_of(overlap_sets, query.question_id, other))
                for other in fixed
                if other != query.question_id and place[other] not in excluded(place[query.question_id])
            ]
            for query in queries
        }
    asked = [place[query.question_id] for query in queries]
    if settings.retrieval == "tfidf":
        indices, distances = nearest_by_words(everyone, count, queries=asked, exclude=excluded)
    elif settings.retrieval == "embedding":
        model, tokenizer = base_model()
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


def by_own_domain(
    queries: Sequence[Question], candidates: Sequence[Question]
) -> list[tuple[Sequence[Question], Sequence[Question]]]:
    """The queries with those who may demonstrate to them: of several domains their own, or all where none is theirs."""
    domains = domains_of(candidates)
    if len(domains) == 1:
        return [(queries, candidates)]
    groups: list[tuple[Sequence[Question], Sequence[Question]]] = [
        ([q for q in queries if q.domain == domain], [c for c in candidates if c.domain == domain])
        for domain in domains
    ]
    groups.append(([query for query in queries if query.domain not in domains], candidates))
    return [(asked, shown) for asked, shown in groups if asked]


def can_demonstrate(reply: str) -> bool:
    """Whether a reply says anything beyond its thinking: one that was cut while thinking has no answer to show."""
    return bool(strip_thinking(reply).strip())


def fixed_questions(
    pool_ids: Sequence[str],
    count: int,
    retrieval: str,
    *,
    overlap_sets: Mapping[str, NDArray[Any]],
    seed: int,
) -> list[str]:
    """The questions that demonstrate to all others. One of them sees the others alone.

    The medoids of a large pool are those of MAX_SETS questions drawn by a hash.
    """
    drawn = sorted(pool_ids, key=lambda name: (derive_seed(seed, "contexts", name), name))
    if retrieval == "fixed_random":
        return drawn[:count]
    drawn = sorted(drawn[:MAX_SETS])
    chosen = k_medoids(pairwise_distances([overlap_sets[name] for name in drawn]), count)
    return [drawn[i] for i in chosen]


def distance_of(overlap_sets: Mapping[str, NDArray[Any]], first: str, second: str) -> float:
    """Of two questions' neurons, 1 where they are not known."""
    if first not in overlap_sets or second not in overlap_sets:
        return 1.0
    one, other = overlap_sets[first], overlap_sets[second]
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return float(jaccard_distance(np.array(shared), np.array(len(one)), np.array(len(other))))


def random_neighbours(
    question_ids: Sequence[str],
    pool_ids: Sequence[str],
    num_neighbours: int,
    *,
    is_excluded: Callable[[str, str], bool],
    seed: int,
) -> Neighbours:
    """The control: neighbours drawn at random from the pool, at distance 1 (nothing is known of their overlap)."""
    drawn: Neighbours = {}
    for question_id in question_ids:
        candidates = [
            other
            for other in sorted(pool_ids)
            if other != question_id and not is_excluded(question_id, other)
        ]
        state = random.Random(derive_seed(seed, "contexts", question_id))
        drawn[question_id] = [
            (o, 1.0) for o in state.sample(candidates, min(num_neighbours, len(candidates)))
        ]
    return drawn


def _excluded(
    everyone: Sequence[Question], shown: set[str], *, threshold: float
) -> Callable[[int], set[int]]:
    """Places that may not demonstrate to a place: near-duplicates of it, and what has no reply to show."""
    alike = {i: set[int]() for i in range(len(everyone))}
    for i, j in near_duplicates(everyone, threshold=threshold):
        alike[i].add(j)
        alike[j].add(i)
    silent = {i for i, question in enumerate(everyone) if question.question_id not in shown}
    return lambda place: alike[place] | silent
