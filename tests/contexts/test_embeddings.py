"""Retrieval by the base model's mean hidden state, against a plain loop over texts."""

import numpy as np
import pytest
import torch

from neuron_opsd.contexts.embeddings import embed, nearest_by_embedding
from neuron_opsd.contexts.words import text_of
from neuron_opsd.records import Question

TEXTS = ["red apple pie", "a red apple pie and more than that", "blue", "red whale", "x"]
QUESTIONS = [
    Question(question_id=str(i), domain="d", question=text, choices=("yes", "no") if i % 2 else ())
    for i, text in enumerate(TEXTS)
]


def by_hand(question, model, tokenizer) -> np.ndarray:
    """Alone, so that nothing is padded."""
    ids = torch.tensor([tokenizer(text_of(question)).input_ids])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[-1][0]
    mean = states.double().mean(dim=0).numpy()
    return mean / np.linalg.norm(mean)


def test_embeddings_are_means_of_last_hidden_states(tiny_model, tiny_tokenizer) -> None:
    found = embed(QUESTIONS, tiny_model, tiny_tokenizer)
    for question, row in zip(QUESTIONS, found, strict=True):
        assert row == pytest.approx(by_hand(question, tiny_model, tiny_tokenizer), abs=1e-5)


def test_the_nearest_by_cosine(tiny_model, tiny_tokenizer) -> None:
    rows = np.stack([by_hand(question, tiny_model, tiny_tokenizer) for question in QUESTIONS])
    places, distances = nearest_by_embedding(
        QUESTIONS, 2, model=tiny_model, tokenizer=tiny_tokenizer, queries=[3, 0], exclude=lambda i: {4}
    )
    for query, row, away in zip([3, 0], places, distances, strict=True):
        others = sorted({0, 1, 2, 3} - {query}, key=lambda i: -rows[i] @ rows[query])
        assert row.tolist() == others[:2]
        assert away.tolist() == pytest.approx([1 - rows[i] @ rows[query] for i in others[:2]], abs=1e-5)
