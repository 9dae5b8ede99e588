"""A model without its weights: its modules and their shapes, in a second, whatever its size."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.device import dtype_of
from neuron_opsd.model.load import load_model_config


def build_skeleton(settings: ModelSettings) -> PreTrainedModel:
    """The model of the settings on torch's meta device.

    Raises:
        ModelError: its configuration makes no causal language model; says why.
    """
    config = load_model_config(settings)
    dtype, trusted = dtype_of(settings), settings.trust_remote_code
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusted)
    except (ValueError, TypeError, ImportError, AttributeError, KeyError) as error:
        raise ModelError(
            f"Model type '{config.model_type}' of {settings.name} cannot be built as a causal language model: "
            f"{' '.join(str(error).split())[:300]}"
        ) from None
