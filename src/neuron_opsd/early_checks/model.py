"""The model without its weights: can its neurons be read, can it be sampled from here, are its files there."""

import logging
import os
from pathlib import Path

from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from neuron_opsd.config import Config, ModelSettings
from neuron_opsd.config.graph import reaches, stages_made
from neuron_opsd.errors import ConfigError, ModelError
from neuron_opsd.model.ffn import check_architecture, find_ffns
from neuron_opsd.model.generation import unset_in_published
from neuron_opsd.model.load import check_quantization, load_model_config
from neuron_opsd.model.locate import resolve_model
from neuron_opsd.model.skeleton import NotBuiltError, build_skeleton
from neuron_opsd.model.unembedding import check_logits_divide
from neuron_opsd.store.files import read_json

logger = logging.getLogger(__name__)

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def check_model(config: Config, *, until: str = "report") -> PreTrainedModel | None:
    """Refuse a model that a later stage could not read, sample from or save.

    Returns:
        The model without its weights. None where it cannot be built so, and what needs it is not checked.

    Raises:
        ModelError: what about it, and which models do.
        ConfigError: a setting of the neurons that this model cannot have.
    """
    architecture = load_model_config(config.model)
    check_architecture(architecture)
    _check_cache(architecture)
    _check_weights(config.model)
    unset_in_published(config.model)
    if config.training.quantization != "none" and reaches(until, "train"):
        check_quantization(config.model)
    try:
        skeleton = build_skeleton(config.model)
    except NotBuiltError as error:
        logger.info("%s Its neurons and the disk are not checked early.", error)
        return None
    if "neurons" in stages_made(config):
        _check_neurons(skeleton, config)
    if config.training.student_entropy == "matched" and reaches(until, "train"):
        check_logits_divide(skeleton)
    return skeleton


def _check_cache(architecture: PretrainedConfig) -> None:
    """Refuse layers whose state is no attention cache: rows that come and go in one batch could not be told apart."""
    text = architecture.get_text_config()
    layers = getattr(DynamicCache(config=text), "layers", [])
    others = [type(layer).__name__ for layer in layers if not isinstance(layer, DynamicLayer)]
    if others:
        raise ModelError(
            f"Model type '{architecture.model_type}' has {len(others)} of {len(layers)} layers without attention. "
            "Sampling and training here need attention in every layer. "
            "Use a model of that kind (llama, qwen2, qwen3, gemma, mistral, phi, olmo, ...)."
        )


def _check_neurons(skeleton: PreTrainedModel, config: Config) -> None:
    ffns, settings = find_ffns(skeleton), config.neurons
    without_gate = [ffn.layer for ffn in ffns if ffn.activation is None]
    if settings.activation == "gate" and without_gate:
        raise ConfigError(
            f"neurons.activation is gate, but layer {without_gate[0]} of this model has no activation module to read "
            "the gate from. Use neurons.activation=gate_up."
        )
    widest, total = max(ffn.d_ff for ffn in ffns), sum(ffn.d_ff for ffn in ffns)
    limits = {
        "num_entries": (widest * settings.chunk_tokens, "(token, neuron) pairs in a chunk of a layer"),
        "overlap_size": (total, "neurons in all layers"),
        "per_token_entries": (widest, "neurons in a layer"),
    }
    for name, (limit, what) in limits.items():
        value = getattr(settings, name)
        if value is not None and value >= limit:
            raise ConfigError(
                f"neurons.{name} is {value}, but this model has {limit} {what}: every set would be the same. Use a "
                f"smaller number, or leave neurons.{name} out."
            )


def _check_weights(settings: ModelSettings) -> None:
    """Refuse a model whose safetensors are not there. Of a hub model that is not cached, ask the hub once.

    Raises:
        ModelError: which file is missing, or that the hub cannot be reached.
    """
    location = resolve_model(settings.name)
    if Path(location).is_dir():
        _check_folder(Path(location))
    else:
        _check_hub(location)


def _check_folder(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    shards = (read_json(index) or {}).get("weight_map", {}) if index.exists() else {}
    if not isinstance(shards, dict) or not all(Path(str(name)).name == name for name in shards.values()):
        raise ModelError(
            f"{index}: weight_map must give the name of a file beside it for each weight. Copy it again."
        )
    missing = sorted({name for name in shards.values() if not (folder / name).is_file()})
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} files of its weights, such as {missing[0]}. Copy it again."
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no weights in safetensors format (*.safetensors). Other formats are not loaded, because "
            "they can run code. Save the model again with save_pretrained."
        )


def _check_hub(name: str) -> None:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    if any(isinstance(try_to_load_from_cache(name, file), str) for file in WEIGHTS):
        return
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise ModelError(
            f"The weights of {name} are not in the local cache, and HF_HUB_OFFLINE is set. Unset it, or give a folder."
        )
    try:
        files = HfApi(library_name="neuron-opsd").list_repo_files(name)
    except (HTTPError, OSError) as error:
        raise ModelError(
            f"The weights of {name} are not in the local cache, and the hub cannot be reached: "
            f"{' '.join(str(error).split())[:200]}"
        ) from None
    if not any(file.endswith(".safetensors") for file in files):
        raise ModelError(
            f"{name} has no weights in safetensors format on the hub. Other formats are not loaded."
        )
