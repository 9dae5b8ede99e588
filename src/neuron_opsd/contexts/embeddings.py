"""Nearest questions by what the model itself makes of their text: the control for retrieval by neurons.

A question's embedding is the mean of the frozen base's last hidden states (after its final norm) over the tokens of its
text and choices. Nearness is cosine. No other model is needed, and no reply is read.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from neuron_opsd.contexts.words import nearest_rows, text_of
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.unembedding import backbone
from neuron_opsd.records import Question

BATCH_SIZE = 16


def nearest_by_embedding(
    questions: Sequence[Question],
    num_neighbours: int,
    *,
    model: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[int],
    exclude: Callable[[int], Collection[int]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Like `nearest_by_words`, by the cosine of embeddings. Distance = 1 - cosine, from 0 to 2."""
    rows = embed(questions, model, tokenizer)
    return nearest_rows(
        lambda query: np.clip(1.0 - rows @ rows[query], 0.0, 2.0),
        num_neighbours,
        queries=queries,
        exclude=exclude,
    )


@torch.inference_mode()
def embed(
    questions: Sequence[Question], model: CausalLM, tokenizer: PreTrainedTokenizerBase
) -> NDArray[np.float64]:
    """Unit vectors, (questions, hidden), in the order of the questions. Texts of like length share a pass."""
    ids = [torch.tensor(tokenizer(text_of(question)).input_ids) for question in questions]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    rows: dict[int, NDArray[np.float64]] = {}
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        means = _mean_states([ids[i] for i in batch], model)
        rows |= dict(zip(batch, means.double().cpu().numpy(), strict=True))
    found = np.stack([rows[i] for i in range(len(ids))])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _mean_states(ids: Sequence[torch.Tensor], model: CausalLM) -> torch.Tensor:
    """Mean last hidden state of each text, float32, (texts, hidden). The padding is on the right, seen by no token."""
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(model.device)
    padded = pad_sequence(list(ids), batch_first=True).to(model.device)
    states = backbone(model)(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state.float()
    return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
