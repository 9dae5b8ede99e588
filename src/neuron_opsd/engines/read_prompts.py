"""Prompts on their way into the cache. What all prompts of a call begin with (a system turn, say) is read once.

    columns   0 . . . . . . . . . . . . .
    row 0        [common][rest of prompt 0]|
    row 1               [common][of prompt]|    padded on the left, as if each had been read by itself

Rests are padded between the common part and themselves while they are read, and their mask hides it. So attention must
be over all earlier tokens: with windows, which count columns, each prompt is read whole.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from neuron_opsd.engines.slot_cache import attention_states
from neuron_opsd.model.align import kept_output
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.option_scores import ReadPrompts
from neuron_opsd.model.shared_prompt import MIN_SHARED, common_prefix
from neuron_opsd.model.unembedding import backbone, last_place

Ids = tuple[int, ...]


class PromptReader:
    """Reads prompts of one call, some at a time.

    Args:
        model: Its weights stay as they are.
        prompts: All of the call.
        shares: Whether what they have in common may be read by itself.
    """

    def __init__(self, model: CausalLM, prompts: Sequence[Ids], *, shares: bool) -> None:
        self.model, self.shares = model, shares
        width = min(common_prefix(prompts), min(map(len, prompts)) - 1)
        self.common = prompts[0][:width] if shares and width >= MIN_SHARED and len(prompts) > 1 else ()
        self.held: DynamicCache | None = None  # of the common part, one row

    def read(self, texts: Sequence[Ids]) -> tuple[ReadPrompts, Float[Tensor, "texts vocab"]]:
        """Read texts that begin with prompts of the call. Returns them, and the logits of their next tokens."""
        width, device = len(self.common), self.model.device
        ids, mask = pad_left([text[width:] for text in texts], device=device)
        cache = self._begin(len(texts))
        with kept_output(backbone(self.model)) as states:
            logits = self.model(
                input_ids=ids,
                attention_mask=torch.cat([mask.new_ones(len(texts), width), mask], dim=1),
                position_ids=width + (mask.cumsum(dim=1) - 1).clamp(min=0),
                past_key_values=cache,
                logits_to_keep=last_place(device),
            ).logits[:, -1]
        self._close_gaps(cache, (1 - mask).sum(dim=1).tolist())
        # What is masked comes first now.
        mask = torch.cat([mask, mask.new_ones(len(texts), width)], dim=1)
        return ReadPrompts(texts, mask, cache, states[-1][:, -1], sees_all=self.shares), logits

    def _begin(self, num_rows: int) -> DynamicCache:
        """A cache that holds the common part for each row, without a copy before the rows are read."""
        cache = DynamicCache()
        if self.common:
            if self.held is None:
                self.held = DynamicCache()
                ids = torch.tensor([self.common], device=self.model.device)
                backbone(self.model)(input_ids=ids, past_key_values=self.held)
            cache.layers.extend(_expanded(layer, num_rows) for layer in self.held.layers)
        return cache

    def _close_gaps(self, cache: DynamicCache, gaps: Sequence[int]) -> None:
        """Move the common part of each row to its rest."""
        if self.held is None:
            return
        for layer, common in zip(cache.layers, self.held.layers, strict=True):
            for states, own in zip(attention_states(layer), attention_states(common), strict=True):
                for row, gap in enumerate(gaps):
                    if gap:
                        states[row, :, gap : gap + own.shape[2]] = own[0]


def _expanded(layer: object, num_rows: int) -> DynamicLayer:
    keys, values = attention_states(layer)
    rows = DynamicLayer()
    rows.keys, rows.values = (states.expand(num_rows, -1, -1, -1) for states in (keys, values))
    rows.dtype, rows.device, rows.is_initialized = keys.dtype, keys.device, True
    return rows


def pad_left(
    sequences: Sequence[Sequence[int]], *, device: torch.device | str = "cpu", pad_id: int = 0
) -> tuple[Int[Tensor, "rows seq"], Int[Tensor, "rows seq"]]:
    """Token ids aligned at the right end, and their mask (1 = a real token). The pad id is never attended to."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, width - len(sequence) :] = 1
    return ids.to(device), mask.to(device)
