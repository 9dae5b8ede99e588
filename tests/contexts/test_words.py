import numpy as np
import pytest

from neuron_opsd.contexts.words import nearest_by_words
from neuron_opsd.records import Question

TEXTS = ["red apple pie", "red apple tart", "blue whale song", "red whale"]
QUESTIONS = [Question(question_id=str(i), domain="d", question=text) for i, text in enumerate(TEXTS)]


def by_hand(first: int, second: int) -> float:
    """1 - cosine of tf * (ln((1 + n) / (1 + df)) + 1), as scikit-learn documents it."""
    words = sorted({word for text in TEXTS for word in text.split()})
    df = {word: sum(word in text.split() for text in TEXTS) for word in words}
    vectors = [
        np.array([(word in TEXTS[i].split()) * (np.log(5 / (1 + df[word])) + 1) for word in words])
        for i in (first, second)
    ]
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    return float(1 - cosine)


def test_nearest_by_words() -> None:
    places, distances = nearest_by_words(QUESTIONS, 2, queries=[0, 2], exclude=lambda i: set())
    assert places.tolist() == [[1, 3], [3, 0]]  # of two at distance 1 the lower place
    assert distances[0].tolist() == pytest.approx([by_hand(0, 1), by_hand(0, 3)])
    assert distances[1].tolist() == pytest.approx([by_hand(2, 3), 1.0])


def test_what_is_excluded_is_no_neighbour_and_rows_end_short() -> None:
    places, distances = nearest_by_words(QUESTIONS, 3, queries=[0], exclude=lambda i: {1})
    assert places.tolist() == [[3, 2, -1]]
    assert distances[0][2] == np.inf
