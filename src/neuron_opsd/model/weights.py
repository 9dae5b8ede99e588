"""Whether a model's files hold every weight that its configuration asks for, in the right shape and finite.

transformers fills a weight that is missing with random numbers. It leaves one out that it does not know, such as a
value head or a layer that predicts further tokens: the model samples right without, and a warning names it.
"""

import contextlib
import hashlib
import logging
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from neuron_opsd.errors import ModelError
from neuron_opsd.model.fingerprint import model_fingerprint
from neuron_opsd.model.locate import is_adapter_folder
from neuron_opsd.store.files import cache_folder, is_trustworthy, write_text

logger = logging.getLogger(__name__)

SHOWN = 3  # names of weights that an error shows


def load_whole(location: str, *, trust_remote_code: bool, **options: Any) -> PreTrainedModel:
    """Load a model that lacks nothing. On the device `meta`, the files' headers alone are read.

    Args:
        location: As `resolve_model` gives it.
        trust_remote_code: Whether the model's own code may run.
        options: Of `from_pretrained`.

    Raises:
        ModelError: weights that are missing or of another shape.
        Exception: whatever transformers raises for files that it cannot read.
    """
    if is_adapter_folder(location) and base_of_adapter(location) is None:
        raise ModelError(
            f"{location} is an adapter that names no base model. Give a whole model, such as one that "
            "`neuron-opsd export RUN --format merged` writes."
        )
    model, found = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        location,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told below, with their names
        **options,
    )
    unknown = sorted(found["unexpected_keys"])
    wrong = {
        "lacks": sorted(found["missing_keys"]),
        "has in another shape": sorted(_shapes(key) for key in found["mismatched_keys"]),
        "holds parts of an adapter for layers that it does not have": [
            key for key in unknown if "lora_" in key
        ],
    }
    said = [f"{what} {_list(keys)}" for what, keys in wrong.items() if keys]
    num_layers = getattr(model.config.get_text_config(), "num_hidden_layers", 1)
    said += [f"has {num_layers} layers by its config.json"] if num_layers < 1 else []
    if said or found["error_msgs"]:
        raise ModelError(
            f"The model in {location} is incomplete. It {'. It '.join([*said, *found['error_msgs']])}. Its weights "
            "would be random or left out. Download it again, or check its config.json."
        )
    if unknown:
        _warn_once(
            f"The model in {location} also holds {_list(unknown)}, which its config.json does not ask for."
        )
    return model


@cache
def _warn_once(message: str) -> None:
    """The same files are looked at before a run and read in each of its stages."""
    logger.warning("%s They are left out. If they belong to the model, check its config.json.", message)


def _shapes(mismatched: tuple[str, Any, Any]) -> str:
    name, saved, asked = mismatched
    return f"{name} ({list(saved)} in the file, {list(asked)} by its config.json)"


def _list(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{', '.join(keys[:SHOWN])}{more} ({len(keys)} weight{'s' if len(keys) > 1 else ''})"


def check_finite(model: PreTrainedModel, name: str) -> None:
    """Refuse weights that are not finite. Those found finite are remembered by the model's fingerprint.

    Raises:
        ModelError: names the first such weight.
    """
    key = f"{model_fingerprint(name)} {model.dtype}"  # a large number can be infinite in a smaller type
    note = cache_folder() / "finite" / hashlib.sha256(key.encode()).hexdigest()
    if note.is_file() and is_trustworthy(note):
        return
    for key, weight in model.named_parameters():
        is_here = weight.is_floating_point() and not weight.is_meta  # not one that is kept on disk
        if is_here and not torch.isfinite(weight).all():
            raise ModelError(
                f"The model in {name} is damaged: {key} holds numbers that are not finite as {weight.dtype}. Download "
                "it again, or set another model.dtype."
            )
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, "")
        note.chmod(0o644)


def base_of_adapter(location: str) -> str | None:
    """The model that an adapter's folder names as its base. None where it names none, or holds a whole model."""
    from peft import PeftConfig

    if not is_adapter_folder(location):
        return None
    return PeftConfig.from_pretrained(location).base_model_name_or_path
