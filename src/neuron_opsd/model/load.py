"""One model and its tokenizer, from a folder, a hub name, a GGUF file or an embedded package."""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.device import device_of, dtype_of
from neuron_opsd.model.generation import load_generation_config, unset_invalid
from neuron_opsd.model.locate import check_is_here, is_adapter_folder, resolve_model, saved_dtype
from neuron_opsd.model.sizes import check_sizes
from neuron_opsd.model.weights import base_of_adapter, check_finite, load_whole

logger = logging.getLogger(__name__)

CausalLM = PreTrainedModel | PeftModel  # plain, or with an adapter around it


def load_model(
    settings: ModelSettings,
    *,
    name: str | None = None,
    dtype: torch.dtype | None = None,
    quantization: str = "none",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer, in eval mode, on the device and in the dtype of the settings.

    Args:
        settings: `model.*`.
        name: Another model (the trained one) to load with the same settings, in the dtype that it was saved in. An
            adapter is put on the model of the settings.
        dtype: Another dtype than that of the settings.
        quantization: "4bit" holds the matrices of linear layers in NF4 (QLoRA, 2305.14314), by bitsandbytes.

    Raises:
        ModelError: not found, no chat template, remote code without leave, a device that is not there.
    """
    device, saved = device_of(settings), saved_dtype(settings, name)
    if dtype is None:
        dtype = cast(torch.dtype, getattr(torch, saved)) if saved else dtype_of(settings)
    options: dict[str, Any] = {"device_map": settings.device_map} if settings.device_map else {}
    if quantization == "4bit":
        check_quantization(settings)
        options = {"quantization_config": _nf4(dtype), "device_map": settings.device_map or {"": device}}
    tokenizer = load_tokenizer(settings, name=name)
    is_adapter = name not in (None, settings.name) and is_adapter_folder(name)
    source = settings.name if is_adapter else name or settings.name
    location = resolve_model(source)
    with _explained(location):
        model = load_whole(
            location,
            trust_remote_code=settings.trust_remote_code,
            dtype=dtype,
            attn_implementation=settings.attn_implementation,
            **options,
        )
    check_finite(model, source)
    if model.generation_config is not None:  # else neither a checkpoint nor the trained model could be saved
        unset_invalid(model.generation_config)
    if is_adapter:
        # In float32, as it was trained: transformers' own loading would round it to the base's dtype.
        model = cast(PreTrainedModel, PeftModel.from_pretrained(model, str(name)).get_base_model())
    return (model if options else model.to(device)).eval(), tokenizer  # pyright: ignore[reportArgumentType]


def check_weights(settings: ModelSettings) -> None:
    """Refuse a model folder whose files are cut short or lack weights. Their headers alone are read.

    A model of the hub is looked at when it is loaded: this must not download it.

    Raises:
        ModelError: names what is wrong.
    """
    location = resolve_model(settings.name)
    if not Path(location).is_dir():
        return
    with _explained(location):
        for place in (base_of_adapter(location), location):
            if place and Path(place).is_dir():
                load_whole(place, trust_remote_code=settings.trust_remote_code, device_map={"": "meta"})


def check_quantization(settings: ModelSettings) -> None:
    """Refuse 4-bit matrices where bitsandbytes does not serve.

    Raises:
        ModelError: no GPU, or no bitsandbytes.
    """
    device = device_of(settings)
    if device.type != "cuda":
        raise ModelError(
            f"training.quantization is 4bit, which needs a GPU. The device is {device.type}. "
            "Use training.quantization=none, or model.device=cuda where there is one."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "training.quantization is 4bit, which needs bitsandbytes, and that is not installed. "
            "Run pip install 'neuron-opsd[quantized]', or use training.quantization=none."
        )


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_tokenizer(settings: ModelSettings, *, name: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer alone, with the chat template that both roles use.

    Raises:
        ModelError: not found, or no chat template and none given.
    """
    location = resolve_model(name or settings.name)
    tokenizer = _from_pretrained(AutoTokenizer, location, trust_remote_code=settings.trust_remote_code)
    if settings.chat_template:
        tokenizer.chat_template = _read_template(Path(settings.chat_template))
    if not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {name or settings.name} has no chat template, so student and teacher have no prompt "
            "format. Use an instruction-tuned model, or set model.chat_template to a Jinja file."
        )
    _check_tokenizer(tokenizer, name or settings.name)
    return tokenizer


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse what transformers takes from the tokenizer's files without a look, and fails of later."""
    template, limit = tokenizer.chat_template, tokenizer.model_max_length
    if isinstance(template, dict) and "default" not in template:
        raise ModelError(
            f"The tokenizer of {name} has the chat templates {', '.join(template)}, and none of them is called "
            "default. Set model.chat_template to a Jinja file."
        )
    if not isinstance(template, str | dict):
        raise ModelError(
            f"The chat template of {name} is {template!r}, which is not text. Set model.chat_template to a Jinja file."
        )
    if not isinstance(limit, int | float) or limit <= 0:
        raise ModelError(
            f"tokenizer_config.json of {name}: model_max_length is {limit!r}. It must be a positive number of tokens. "
            "Correct it, or download the model again."
        )


def _read_template(file: Path) -> str:
    if not os.path.isfile(file):
        raise ModelError(f"model.chat_template: {file} does not exist. Give a Jinja file.")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"model.chat_template is {file}, which cannot be read as UTF-8 text: {error}"
        ) from None


def max_context_tokens(model: CausalLM) -> int | None:
    """How many tokens the model can read, where its configuration says so."""
    return _context_of(model.config)


def end_token_ids(model: CausalLM, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a reply: the tokenizer's and those of the model's generation configuration."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    return _all_end_ids(ids, tokenizer)


def _all_end_ids(ids: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(
        i for i in [*listed, tokenizer.eos_token_id, *_end_of_turn_ids(tokenizer)] if i is not None
    )


def configured_end_ids(settings: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """`end_token_ids` of a model that is not loaded."""
    config = load_generation_config(settings) or load_model_config(settings).get_text_config()
    return _all_end_ids(config.eos_token_id, tokenizer)


def _end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token with which this chat template closes an assistant turn, when it is a special token."""
    known = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|end_of_text|>")
    return [
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special and token.content in known
    ]


def _from_pretrained(loader, location: str, *, trust_remote_code: bool, **options):
    check_is_here(location)
    with _explained(location):
        return loader.from_pretrained(location, trust_remote_code=trust_remote_code, **options)


@contextmanager
def _explained(location: str) -> Iterator[None]:
    """Explain whatever the libraries raise for files of others: there is no list of what that can be."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_explain(location, f"{error}" or type(error).__name__)) from error


def _explain(location: str, reason: str) -> str:
    reason = " ".join(reason.split())
    if "trust_remote_code" in reason:
        return f"{location} brings Python code of its own. Read it, then set model.trust_remote_code=true to run it."
    if not Path(location).exists():
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        hint = "HF_HUB_OFFLINE is set, so only the local cache was searched. " if offline else ""
        return f"No model '{location}', neither a folder nor on the hub. {hint}({reason[:300]})"
    return f"The model in {location} cannot be loaded: {reason[:500]}"


def load_model_config(settings: ModelSettings) -> PretrainedConfig:
    """The configuration of a model that is not loaded, for early refusals.

    Raises:
        ModelError: it cannot be read, or no decoder has these sizes.
    """
    location = resolve_model(settings.name)
    config = _from_pretrained(AutoConfig, location, trust_remote_code=settings.trust_remote_code)
    check_sizes(config, settings.name)
    return config


def configured_context(settings: ModelSettings) -> int | None:
    """`max_context_tokens` of a model that is not loaded."""
    return _context_of(load_model_config(settings))


def _context_of(config: PretrainedConfig) -> int | None:
    config = config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
