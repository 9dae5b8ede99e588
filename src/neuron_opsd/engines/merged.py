"""An adapter merged into float32 weights while the student samples, and taken out again to the bit.

Beside each matrix an adapter costs two small products, at every token. In float32 the merged matrix differs from them
by rounding alone. In bfloat16 it does not: 8 bits swallow most of a small update (at the default learning rate 94 to 96
of 100 weights keep their old bits), so the engine would sample from another student than the one that trains.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from neuron_opsd.model.environment import free_memory
from neuron_opsd.model.load import CausalLM


def has_room_to_merge(model: CausalLM) -> bool:
    """Whether memory holds the adapted matrices twice more, now. Ask once: merged or apart differ by rounding."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    return 2 * sum(_weight(layer).nbytes for layer in layers) <= (free_memory(model.device) or 0)


@contextmanager
def merged_adapter(model: CausalLM) -> Iterator[None]:
    """Merge where that is exact. The original matrices are kept, not computed back."""
    layers = _mergeable(model)
    weights = [_weight(layer) for layer in layers]
    kept = [weight.data for weight in weights]
    try:
        with torch.no_grad():
            for layer, weight in zip(layers, weights, strict=True):
                (adapter,) = layer.active_adapters
                weight.data = weight.data + layer.get_delta_weight(adapter)
                layer.merged_adapters.append(adapter)
        yield
    finally:
        for layer, weight, original in zip(layers, weights, kept, strict=True):
            weight.data = original
            layer.merged_adapters.clear()


def _mergeable(model: CausalLM) -> list[LoraLinear]:
    """The adapter's layers, if every one is plain LoRA on float32 weights."""
    if not isinstance(model, PeftModel) or len(model.active_adapters) != 1:
        return []
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    is_plain = all(
        type(layer) is LoraLinear and not layer.merged and not layer.disable_adapters for layer in layers
    )
    return layers if is_plain and all(_weight(layer).dtype == torch.float32 for layer in layers) else []


def _weight(layer: LoraLinear) -> Tensor:
    return cast(Tensor, layer.get_base_layer().weight)
