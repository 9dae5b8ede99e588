"""KL between two models on given completions, exact over the vocabulary, with one model in memory at a time.

The first model leaves behind the hidden states that predict the completion's tokens, and its head: both small beside
its logits. The second model then turns its own states and the kept ones into logits, chunk by chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuron_opsd.model.divergence import forward_kl
from neuron_opsd.model.finite import all_finite, not_finite
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.shared_prompt import states_of_texts
from neuron_opsd.model.unembedding import Head, head_of, logits_from_hidden
from neuron_opsd.progress import tell

CHUNK_TOKENS = 256  # whose vocabulary logits are held at once
READ_TOKENS = 2048  # of texts that are read together
Texts = Sequence[tuple[Sequence[int], Sequence[int]]]  # prompt ids, completion ids
States = Sequence[Float[Tensor, "_ hidden"]]  # for each text, one state a completion token


@dataclass(frozen=True, slots=True)
class KeptStates:
    """What is kept of a model, on the CPU."""

    states: States
    head: Head
    temperature: float = 1.0  # its logits are divided by it


@torch.inference_mode()
def keep_states(model: CausalLM, texts: Texts, known: States | None = None) -> KeptStates:
    """The first model's part. Where its states are known, no text is read."""
    weight, bias = head_of(model)
    head = Head(_copied(weight), None if bias is None else _copied(bias))
    return KeptStates([states.cpu() for states in known or _read(model, texts)], head)


def _copied(values: Tensor) -> Tensor:
    return values.detach().cpu().clone()


@torch.inference_mode()
def kl_from_base(model: CausalLM, texts: Texts, base: KeptStates, known: States | None = None) -> list[float]:
    """For each text KL(trained || base) summed over its completion tokens, in nats. `model` is the trained one.

    Where its states are known, no text is read.
    """
    # KL(second || first)
    return _kl_sums(model, texts, base, lambda own, kept: forward_kl(kept, own), known)


@torch.inference_mode()
def kl_to_model(model: CausalLM, texts: Texts, first: KeptStates, known: States | None = None) -> float:
    """Mean KL(first || model) of a completion token of all texts, in nats. `model` is the second one.

    Where its states are known, no text is read.
    """
    count = sum(len(completion) for _, completion in texts)
    return sum(_kl_sums(model, texts, first, forward_kl, known)) / max(count, 1)


def _kl_sums(
    model: CausalLM,
    texts: Texts,
    kept: KeptStates,
    kl: Callable[[Tensor, Tensor], Tensor],
    known: States | None = None,
) -> list[float]:
    """For each text the sum over its completion tokens of `kl`, of this model's and the kept log-probabilities.

    In float64: two models that differ by rounding alone are some 1e-12 nats apart, and float32 cannot tell that from 0.
    """
    weight, bias = kept.head
    head = Head(weight.to(model.device), None if bias is None else bias.to(model.device))
    sums = []
    for text, after, before in zip(texts, known or _read(model, texts), kept.states, strict=True):
        total = 0.0
        for own, others in zip(after.split(CHUNK_TOKENS), before.split(CHUNK_TOKENS), strict=True):
            logits = logits_from_hidden(model, own.to(model.device))
            kept_logits = logits_from_hidden(model, others.to(model.device), other=head) / kept.temperature
            total += (
                kl(*(values.double().log_softmax(dim=-1) for values in (logits, kept_logits))).sum().item()
            )
        if not all_finite([total]):
            raise not_finite(
                model, [[*text[0], *text[1]]], what="The logits of the base or the trained model"
            )
        sums.append(total)
    return sums


def _read(model: CausalLM, texts: Texts) -> Iterator[Tensor]:
    num_read = 0
    for batch in _batches(texts):
        tell(doing=f"reading {num_read + 1} of {len(texts)}")
        yield from states_of_texts(model, batch)
        num_read += len(batch)


def _batches(texts: Texts) -> Iterator[Texts]:
    """Texts that are read together, in their order: READ_TOKENS with the padding, or one text."""
    batch: list[tuple[Sequence[int], Sequence[int]]] = []
    longest = 0
    for text in texts:
        longest = max(longest, sum(map(len, text)))
        if batch and (len(batch) + 1) * longest > READ_TOKENS:
            yield batch
            batch, longest = [], sum(map(len, text))
        batch.append(text)
    if batch:
        yield batch
