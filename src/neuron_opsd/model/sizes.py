"""Sizes in a model's configuration: whole numbers that a model can have, before anything is built of them.

transformers checks types alone. A layer count of a billion is built for hours, and a width of 0 fails somewhere else.
"""

from typing import Any

from transformers import PretrainedConfig

from neuron_opsd.errors import ModelError

# The largest that is believed. About ten times what the largest models have.
LARGEST = {
    "num_hidden_layers": 2_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 1_000_000_000,
}
_NEXT = "Correct it, or download the model again."


def check_sizes(config: PretrainedConfig, name: str) -> None:
    """Refuse a configuration that no decoder can be built of.

    Raises:
        ModelError: names the entry, its value and what is allowed.
    """
    text = config.get_text_config()
    if not isinstance(text, PretrainedConfig):
        raise ModelError(f"config.json of {name}: text_config is {text!r}, which is not an object. {_NEXT}")
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name} is an encoder-decoder (model type '{config.model_type}', is_encoder_decoder in config.json). Use "
            "a decoder-only model (llama, qwen2, qwen3, gemma, mistral, phi, olmo, ...)."
        )
    for entry, largest in LARGEST.items():
        value = getattr(text, entry, None)
        # Some models have a size for each layer, and none for a layer without that part.
        for size in value if isinstance(value, list | tuple) else [value]:
            if size is not None and not _is_size(size, largest):
                raise ModelError(
                    f"config.json of {name}: {entry} is {size!r}. It must be a whole number from 1 to {largest:,}. "
                    f"{_NEXT}"
                )


def _is_size(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest
