"""Nearest questions by the words they share: the control for retrieval by neurons."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.records import Question


def nearest_by_words(
    questions: Sequence[Question],
    num_neighbours: int,
    *,
    queries: Sequence[int],
    exclude: Callable[[int], Collection[int]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest other questions by TF-IDF, nearest first. Distance = 1 - cosine.

    Args:
        questions: All of them. Word frequencies are theirs.
        num_neighbours: At most so many.
        queries: Places whose neighbours are wanted, and the order of the rows.
        exclude: Further places that must not be neighbours of a place.

    Returns:
        (places, distances), both (queries, num_neighbours). Where fewer candidates exist, -1 and inf. Of equal
        distances the lower place comes first.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # an optional package

    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")  # words of one letter too: numbers, symbols
    matrix = vectorizer.fit_transform([text_of(question) for question in questions])

    def away_from(query: int) -> NDArray[np.float64]:
        return np.clip(1.0 - (matrix @ matrix[[query]].T).toarray()[:, 0], 0.0, 1.0)

    return nearest_rows(away_from, num_neighbours, queries=queries, exclude=exclude)


def text_of(question: Question) -> str:
    """What is compared: the question and its choices."""
    return " ".join((question.question, *question.choices))


def nearest_rows(
    away_from: Callable[[int], NDArray[np.float64]],
    num_neighbours: int,
    *,
    queries: Sequence[int],
    exclude: Callable[[int], Collection[int]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest places to each query, by the distances of all places from it. Returns as `nearest_by_words`."""
    places = np.full((len(queries), num_neighbours), -1, dtype=np.int64)
    distances = np.full((len(queries), num_neighbours), np.inf)
    for row, query in enumerate(queries):
        away = away_from(query)
        away[[query, *exclude(query)]] = np.inf
        best = np.argsort(away, kind="stable")[:num_neighbours]
        best = best[np.isfinite(away[best])]
        places[row, : len(best)] = best
        distances[row, : len(best)] = away[best]
    return places, distances
