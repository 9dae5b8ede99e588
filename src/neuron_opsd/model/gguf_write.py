"""A model folder as one GGUF file, for llama.cpp, Ollama and LM Studio. `model/gguf.py` goes the other way.

Three families of dense models are written: llama, qwen2 and qwen3. Names and types are those of llama.cpp's own
converter. Two things differ from the folder's weights:

    llama.cpp turns neighbouring pairs of a llama's head, transformers turns halves: rows of q and k change places
    a frequency of llama3's scaled rotary embedding is divided by a factor, which becomes a tensor of its own
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from neuron_opsd.errors import ModelError
from neuron_opsd.model.generation import published_end_ids
from neuron_opsd.model.gguf_tokenizer import add_tokenizer, split_rule

Type = gguf.GGMLQuantizationType
FAMILIES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
WEIGHTS = {
    "f32": (Type.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Type.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
SAVED_AS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
Q8_BLOCK = 32  # weights of a row that share a scale
ROPE_TYPES = ("default", "linear", "yarn", "llama3")
OTHERWISE = (
    "Write it with `--format merged`, and convert that folder with llama.cpp's own convert_hf_to_gguf.py."
)


def check_family(config: PretrainedConfig) -> None:
    """Refuse what would be written wrongly, before any weight is read.

    Raises:
        ModelError: another family, or a feature that GGUF has no place for.
    """
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"A model of the family {config.model_type} cannot be written as GGUF here. Families that can: "
            f"{', '.join(sorted(FAMILIES))}. {OTHERWISE}"
        )
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    refused = {
        f"its rotary embedding is scaled by {rope!r}": rope not in ROPE_TYPES,
        "some of its layers read a sliding window": "sliding_attention"
        in (getattr(config, "layer_types", None) or ()),
        f"its activation is {config.hidden_act}": config.hidden_act != "silu",
    }
    for what, is_so in refused.items():
        if is_so:
            raise ModelError(
                f"This {config.model_type} model cannot be written as GGUF here: {what}. {OTHERWISE}"
            )


def write_gguf(
    folder: Path, file: Path, *, weights: str | None = None, name: str, licence: str | None = None
) -> str:
    """Write a model folder of safetensors as one file. One tensor is in memory at a time.

    Args:
        folder: Holds config.json, safetensors and the tokenizer with its chat template.
        file: To write. One that is there is replaced.
        weights: One of `WEIGHTS`. Vectors are always f32. None: as they are saved in the folder.
        name: For programs that list models.
        licence: An SPDX identifier, where it is known.

    Returns:
        How the weights are written.

    Raises:
        ModelError: a family or a tokenizer that cannot be written.
    """
    config = AutoConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    check_family(config)
    split_rule(tokenizer)
    weights = weights or SAVED_AS[str(config.dtype or torch.float32).removeprefix("torch.")]
    kind, file_type = WEIGHTS[weights]
    arch = FAMILIES[config.model_type]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_type("model")
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, config)
    end_ids = published_end_ids(folder, tokenizer)
    add_tokenizer(writer, tokenizer, num_rows=config.vocab_size, end_ids=end_ids)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for tensor_name, shape, _ in _tensors(folder, config):
        used = _type_of(shape, kind)
        size = gguf.quant_shape_to_byte_shape(shape, used)
        writer.add_tensor_info(_name(names, tensor_name), size, np.dtype(np.uint8), int(np.prod(size)), used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor_name, _, read in _tensors(folder, config):
        values = _in_llama_order(tensor_name, read(), config).float().numpy()
        writer.write_tensor_data(quantize(values, _type_of(values.shape, kind)))
    writer.close()
    return weights


def _type_of(shape: tuple[int, ...], kind: Type) -> Type:
    """A matrix's type. Vectors stay exact. Rows that blocks do not fill are f16, as in llama.cpp's converter."""
    if len(shape) == 1:
        return Type.F32
    return Type.F16 if kind == Type.Q8_0 and shape[-1] % Q8_BLOCK else kind


def _add_sizes(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    rope = config.rope_parameters or {}
    writer.add_rope_freq_base(rope.get("rope_theta", 10_000.0))
    if rope.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
        for key, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if rope.get(key) is not None:
                add(rope[key])


ROPE_FACTORS = "rope_freqs.weight"


def _name(names: gguf.TensorNameMap, name: str) -> str:
    """A tensor's name in GGUF."""
    found = name if name == ROPE_FACTORS else names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ModelError(
            f"The model has a tensor {name}, for which GGUF has no name in this family. {OTHERWISE}"
        )
    return found


def _tensors(
    folder: Path, config: PretrainedConfig
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]]:
    """Every tensor's name and shape, and what reads it. Always in the same order."""
    factors = _rope_factors(config)
    if factors is not None:
        yield ROPE_FACTORS, tuple(factors.shape), lambda: factors
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no dictionary)
                yield name, tuple(opened.get_slice(name).get_shape()), partial(opened.get_tensor, name)


def _rope_factors(config: PretrainedConfig) -> torch.Tensor | None:
    """By what llama3's scaling divides each frequency, from transformers' own frequencies."""
    rope = config.rope_parameters or {}
    if rope.get("rope_type") != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    head = 2 * len(scaled)
    return 1 / rope["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float32) / head) / scaled


def _in_llama_order(name: str, tensor: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """Rows of llama's q and k as neighbouring pairs. llama.cpp turns halves for qwen, as transformers does."""
    if config.model_type != "llama" or (".q_proj." not in name and ".k_proj." not in name):
        return tensor
    heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)
