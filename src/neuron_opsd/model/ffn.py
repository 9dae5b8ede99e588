"""Where a model's neurons are: the feed-forward network (FFN) of each layer, found by role, and hooks on it.

A neuron is one coordinate of the input of an FFN's down projection. Names differ (`down_proj`, `fc2`,
`c_proj`, `dense_4h_to_h`), so the projection is found by what it does: in each decoder layer exactly one
linear map goes from the FFN's width (d_ff) back to the residual stream. That covers the dense families
(llama, qwen2, qwen3, gemma 1-4, mistral, phi, phi3, gpt2, gpt_neox, olmo 1-3, opt, bloom, falcon, granite,
smollm3, starcoder2, lfm2), with and without PEFT adapters. Where a layer has no map from the width that the
configuration names (LFM2 rounds it, Gemma 4 doubles it in some layers), the projection is the one that closes what a
map beside it opens. Mixture-of-experts models hold their experts as fused
three-dimensional weights, and a token meets only some of them: they are refused, with a message that says
so.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from neuron_opsd.errors import ModelError
from neuron_opsd.model.unembedding import backbone

WIDTH_NAMES = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner")
EXPERT_NAMES = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class FeedForward:
    """The FFN of one layer, as far as neurons need it."""

    layer: int
    d_ff: int
    down_projection: nn.Module  # Linear, Conv1D, or an adapter around one
    activation: (
        nn.Module | None
    )  # the module whose output is `gate`. None if the family calls a function instead

    def down_weight(self) -> Float[Tensor, "hidden neurons"]:
        """The weight whose column i neuron i writes to the residual stream, active adapters included."""
        return _effective_weight(self.down_projection, d_ff=self.d_ff)


def unwrap_adapters(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper. Its layers still carry, and run, the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore


def find_ffns(model: nn.Module) -> list[FeedForward]:
    """The FFN of every decoder layer of a transformers or PEFT model, in order.

    Raises:
        ModelError: a mixture of experts, or a layer without exactly one down projection.
    """
    model = unwrap_adapters(model)
    config = model.config.get_text_config()
    check_architecture(config)
    return [_find_ffn(block, layer, config) for layer, block in enumerate(_layers(model, config))]


@contextmanager
def hook_neurons(
    ffns: Sequence[FeedForward],
    activation: Literal["gate", "gate_up"],
    receive: Callable[[int, Tensor], None],
) -> Iterator[None]:
    """While open, call `receive(layer, neurons)` whenever a layer's FFN runs.

    Args:
        ffns: From `find_ffns`.
        activation: `gate` = output of the activation module. `gate_up` = input of the down projection. They
            are the same where the FFN has no up branch.
        receive: Gets the layer's index and a tensor (..., d_ff) in the model's dtype. OPT flattens batch and
            sequence.
    """

    def after_activation(layer: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: receive(layer, output)

    def before_projection(layer: int) -> Callable[..., None]:
        return lambda _module, inputs: receive(layer, inputs[0])

    with ExitStack() as hooks:
        for ffn in ffns:
            if activation == "gate_up":
                handle = ffn.down_projection.register_forward_pre_hook(before_projection(ffn.layer))
            else:
                handle = _activation_of(ffn).register_forward_hook(after_activation(ffn.layer))
            hooks.callback(handle.remove)
        yield


def _activation_of(ffn: FeedForward) -> nn.Module:
    if ffn.activation is None:
        raise ModelError(
            f"Layer {ffn.layer} has no activation module to read the gate from. "
            "Use neurons.activation=gate_up."
        )
    return ffn.activation


def check_architecture(config: PretrainedConfig) -> None:
    """Refuse what `find_ffns` cannot read, from the configuration alone.

    Raises:
        ModelError: a mixture of experts.
    """
    experts = next((count for name in EXPERT_NAMES if (count := getattr(config, name, None))), 0)
    if experts > 1:
        raise ModelError(
            f"Model type '{config.model_type}' is a mixture of {experts} experts a layer. Neurons are "
            "defined here for dense FFNs, where every token meets every neuron. Use a dense model (llama, "
            "qwen2, qwen3, gemma, mistral, phi, olmo, ...)."
        )


def _ffn_width(config: PretrainedConfig, layer: int) -> int:
    """d_ff by the configuration. GPT-2 and Bloom leave it unset and mean four times the hidden size."""
    width = next(
        (size for name in WIDTH_NAMES if (size := getattr(config, name, None))), 4 * config.hidden_size
    )
    return width if isinstance(width, int) else width[layer]  # Gemma 3n has a list


def _layers(model: PreTrainedModel, config: PretrainedConfig) -> nn.ModuleList:
    decoder = backbone(model).get_decoder()  # pyright: ignore[reportCallIssue]
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module
    raise ModelError(
        f"Model type '{config.model_type}' has no list of {config.num_hidden_layers} decoder layers."
    )


def _find_ffn(block: nn.Module, layer: int, config: PretrainedConfig) -> FeedForward:
    width, hidden = _ffn_width(config, layer), config.hidden_size
    closing = [
        name for name, module in block.named_modules() if (_linear_shape(module) or (0, 0))[1] == hidden
    ]
    # An adapter holds the projection it wraps: keep the outer one.
    closing = [name for name in closing if not any(name.startswith(other + ".") for other in closing)]
    names = [name for name in closing if _input_width(block, name) == width]
    if len(names) > 1:  # an attention output may share the shape
        names = [name for name in names if not _is_attention(name)]
    if not names:
        names = [
            name for name in closing if not _is_attention(name) and _has_opening_map(block, name, hidden)
        ]
    if len(names) != 1:
        raise ModelError(
            f"Layer {layer} of model type '{config.model_type}' has {len(names)} linear maps from {width} "
            f"(the FFN's width) to {hidden} (the hidden size). Exactly one is needed. "
            "Use a dense decoder-only model (llama, qwen2, qwen3, gemma, mistral, phi, olmo, lfm2, ...)."
        )
    parent = block.get_submodule(names[0].rpartition(".")[0])
    d_ff = _input_width(block, names[0])
    return FeedForward(layer, d_ff, block.get_submodule(names[0]), _find_activation(parent))


def _is_attention(name: str) -> bool:
    return "attn" in name or "attention" in name


def _input_width(block: nn.Module, name: str) -> int:
    return (_linear_shape(block.get_submodule(name)) or (0, 0))[0]


def _has_opening_map(block: nn.Module, name: str, hidden: int) -> bool:
    """Whether a map beside this one widens the residual stream to its input (or to twice that: gate and up in one).

    An FFN widens it. The gates of Gemma's per-layer inputs, which look alike, narrow it.
    """
    parent, _, own = name.rpartition(".")
    width = _input_width(block, name)
    beside = [
        _linear_shape(child) for key, child in block.get_submodule(parent).named_children() if key != own
    ]
    return width > hidden and any(shape in ((hidden, width), (hidden, 2 * width)) for shape in beside)


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear map, whatever its class. None for anything else."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return module.in_features, module.out_features  # pyright: ignore[reportReturnType]
    if type(module).__name__ == "Conv1D":  # GPT-2: the weight is (in, out)
        return module.weight.shape[0], module.weight.shape[1]  # pyright: ignore
    return None


def _find_activation(ffn: nn.Module) -> nn.Module | None:
    """The one child without weights that is not dropout: ReLU, GELU, SiLU in all their classes."""
    found = [
        child
        for child in ffn.children()
        if not isinstance(child, (nn.Dropout, nn.Identity))
        and not any(True for _ in child.parameters())
        and "norm" not in type(child).__name__.lower()
    ]
    return found[0] if len(found) == 1 else None


def _effective_weight(module: nn.Module, *, d_ff: int) -> Tensor:
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module  # pyright: ignore
    is_transposed = type(base).__name__ == "Conv1D"
    weight: Tensor = base.weight  # pyright: ignore
    if weight.ndim != 2 or weight.shape[0 if is_transposed else 1] != d_ff or not weight.is_floating_point():
        raise ModelError(
            f"The weight of {type(base).__name__} is stored as {weight.dtype} {tuple(weight.shape)}. Neurons "
            "need plain floating-point weights. Load the model without quantisation."
        )
    for adapter in _unmerged_adapters(module):
        if not hasattr(module, "get_delta_weight") or getattr(module, "use_dora", {}).get(adapter):
            raise ModelError(
                f"Adapter '{adapter}' changes the down projection by more than an added matrix. Merge it "
                "first (model.merge_and_unload())."
            )
        weight = weight.float() + module.get_delta_weight(adapter).float()  # pyright: ignore
    return weight.T if is_transposed else weight


def _unmerged_adapters(module: nn.Module) -> list[str]:
    """Names of the PEFT adapters that act on this module now and are not yet part of its weight."""
    if getattr(module, "disable_adapters", True) or getattr(module, "merged", False):
        return []
    known = getattr(module, "lora_A", None)
    return [name for name in module.active_adapters if known is None or name in known]  # pyright: ignore
