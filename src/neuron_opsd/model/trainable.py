"""A loaded model -> the student: with an adapter, or with all weights to be trained."""

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

from neuron_opsd.config import TrainingSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.device import name_of
from neuron_opsd.model.load import CausalLM


def trainable(model: CausalLM, settings: TrainingSettings, *, seed: int) -> CausalLM:
    """The model with what is to be trained: an adapter on all linear layers, or all weights.

    Raises:
        ModelError: weights in float16, or full training of weights that are not float32.
    """
    if model.dtype == torch.float16:
        raise ModelError(
            "The model to train is in float16, where gradients of a step round to zero. Set training.dtype=float32 or "
            "bfloat16."
        )
    if settings.method == "full":
        if model.dtype != torch.float32:
            raise ModelError(
                f"training.method is full, but training.dtype is {name_of(model.dtype)}: small steps "
                "round to nothing there. Set training.dtype=float32 and training.trainer={bf16: true}."
            )
        return model.requires_grad_(True)
    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)  # pyright: ignore[reportReturnType]
