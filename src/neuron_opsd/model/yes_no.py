"""How likely a model's reply begins with yes: P(yes) as a share of P(yes) and P(no) (P(True) of 2207.05221)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.option_scores import Ids, read_first_tokens


@dataclass(frozen=True, slots=True)
class YesNo:
    """The probability of yes as a share of yes and no, and what both had together."""

    probability: float
    mass: float


def ask_yes_no(
    model: CausalLM, encoder: ChatEncoder, prompts: Sequence[Ids], *, batch_size: int
) -> Iterator[tuple[int, YesNo]]:
    """(place among the prompts, how likely the answer to it is yes), at temperature 1. The longest prompts first."""
    yes, no = (first_tokens(word, encoder) for word in ("yes", "no"))
    for place, logits, _ in read_first_tokens(model, prompts, batch_size=batch_size):
        yield place, yes_share(logits, yes, no)


def first_tokens(word: str, encoder: ChatEncoder) -> list[int]:
    """The tokens with which a reply of this word begins, in its usual spellings."""
    spellings = (word, word.capitalize(), word.upper(), f" {word}", f" {word.capitalize()}")
    return sorted({encoder.encode_text(spelling)[0] for spelling in spellings})


def yes_share(logits: torch.Tensor, yes: Sequence[int], no: Sequence[int]) -> YesNo:
    """From the logits of the first token. A token that begins both words says neither."""
    probs = logits.float().softmax(dim=-1)
    both = set(yes) & set(no)
    mass = [probs[[token for token in own if token not in both]].sum().item() for own in (yes, no)]
    total = sum(mass)
    return YesNo(mass[0] / total if total > 0 else 0.5, min(total, 1.0))
