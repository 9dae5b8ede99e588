"""A model without its weights: its modules and their shapes, in a second, whatever its size."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.device import dtype_of
from neuron_opsd.model.load import load_model_config


class NotBuiltError(ModelError):
    """The model's own code needs tensors with contents."""


def build_skeleton(settings: ModelSettings) -> PreTrainedModel:
    """The model of the settings on torch's meta device.

    Raises:
        ModelError: its configuration makes no causal language model. The message says why.
        NotBuiltError: it may well be one, but its code does not run without contents.
    """
    config = load_model_config(settings)
    dtype, trusted = dtype_of(settings), settings.trust_remote_code
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusted)
    except RuntimeError as error:  # and NotImplementedError, which is one
        raise NotBuiltError(
            f"{settings.name} cannot be built without its weights: {' '.join(str(error).split())[:300]}."
        ) from None
    except Exception as error:  # a model's code fails in any way on entries that it does not expect
        raise ModelError(
            f"Model type '{config.model_type}' of {settings.name} cannot be built as a causal language model: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}. See to its config.json."
        ) from None
