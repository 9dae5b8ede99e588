"""How much probability a model gives to each of a few short replies: one teacher-forced pass, no sampling.

    P(reply | prompt) = product over its tokens. Of a reply with several spellings, the sum over them

So a reply of several tokens needs no rule of its own, and whatever engine sampled the answers changes nothing.
"""

from collections.abc import Iterator, Sequence

import torch

from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.finite import all_finite, not_finite
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.unembedding import logits_from_hidden

Ids = tuple[int, ...]


@torch.inference_mode()
def reply_log_probs(
    model: CausalLM, prompts: Sequence[Ids], replies: Sequence[Sequence[Ids]], *, batch_size: int
) -> list[list[float]]:
    """Log-probability, in nats, of each reply to its prompt.

    Args:
        model: Scored in its own dtype. Softmax in float32.
        prompts: Token ids.
        replies: For each prompt its replies, each at least one token long.
        batch_size: Rows per forward pass.

    Returns:
        One list for each prompt, in the order of its replies.

    Raises:
        NotFiniteError: logits are NaN or infinite.
    """
    rows = _rows(prompts, replies)
    order = sorted(range(len(rows)), key=lambda i: -len(prompts[rows[i][0]]) - len(rows[i][1]))
    found: dict[tuple[int, Ids], float] = {}
    for start in range(0, len(order), batch_size):
        batch = [rows[i] for i in order[start : start + batch_size]]
        for (place, reply), log_probs in zip(batch, _score(model, prompts, batch), strict=True):
            for other in replies[place]:  # every reply that this row's states predict wholly
                if other[:-1] == reply[:-1]:
                    found[place, other] = sum(log_probs[t, token].item() for t, token in enumerate(other))
    for (place, reply), value in found.items():
        if not all_finite([value]):
            raise not_finite(model, [prompts[place] + reply], what="The log-probabilities of the options")
    return [[found[place, reply] for reply in own] for place, own in enumerate(replies)]


@torch.inference_mode()
def first_token_logits(
    model: CausalLM, prompts: Sequence[Ids], *, batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """(place among the prompts, float32 logits of the first token of its reply), the longest prompts first.

    Raises:
        NotFiniteError: logits are NaN or infinite.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        # A token after the prompt is there to be predicted. Which one it is changes nothing.
        padded = pad_right([prompts[i] for i in batch], [(0,)] * len(batch), device=model.device)
        logits = logits_from_hidden(model, predicting_states(model, model, *padded)).cpu()
        if not all_finite(logits.logsumexp(dim=-1).tolist()):
            raise not_finite(model, [prompts[i] for i in batch], what="The logits of the first tokens")
        yield from zip(batch, logits, strict=True)


def _rows(prompts: Sequence[Ids], replies: Sequence[Sequence[Ids]]) -> list[tuple[int, Ids]]:
    """(prompt, reply) pairs to run: replies that differ in their last token alone share a row, so letters need one."""
    rows: dict[tuple[int, Ids], tuple[int, Ids]] = {}
    for place in range(len(prompts)):
        for reply in replies[place]:
            rows.setdefault((place, reply[:-1]), (place, reply))
    return list(rows.values())


def _score(
    model: CausalLM, prompts: Sequence[Ids], batch: Sequence[tuple[int, Ids]]
) -> Iterator[torch.Tensor]:
    """For each row the log-probabilities at each of its reply's places, (reply tokens, vocab)."""
    padded = pad_right(
        [prompts[place] for place, _ in batch], [reply for _, reply in batch], device=model.device
    )
    states = predicting_states(model, model, *padded)
    for own in states.split([len(reply) for _, reply in batch]):
        yield logits_from_hidden(model, own).log_softmax(dim=-1).cpu()
