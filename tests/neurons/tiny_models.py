"""Tiny models of every dense family, built from configs; nothing is downloaded."""

from collections.abc import Iterable

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from neuron_opsd.records import Rollout

VOCAB, HIDDEN, WIDTH, LAYERS = 61, 16, 40, 2

_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NO_KV_HEADS = {key: value for key, value in _LLAMA.items() if key not in ("num_key_value_heads", "head_dim")}
_BLOOM_LIKE = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

FAMILIES: dict[str, dict[str, object]] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": {**_LLAMA, "sliding_window": 8},
    "gemma3_text": {**_LLAMA, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {**_LLAMA, "sliding_window": 8},
    "phi": _NO_KV_HEADS,
    "phi3": {**_LLAMA, "sliding_window": None},
    "gpt2": {
        "vocab_size": VOCAB,
        "n_embd": HIDDEN,
        "n_inner": WIDTH,
        "n_layer": LAYERS,
        "n_head": 2,
        "n_positions": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": _NO_KV_HEADS,
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmo3": {**_LLAMA, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "opt": {
        **_BLOOM_LIKE,
        "ffn_dim": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": HIDDEN,
        "activation_function": "gelu",  # ReLU's exact zeros tie, and are tested by themselves
    },
    "bloom": {**_BLOOM_LIKE, "n_layer": LAYERS, "n_head": 2},
    "falcon": {
        **_BLOOM_LIKE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "ffn_hidden_size": WIDTH,
        "alibi": False,
    },
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "starcoder2": {**_LLAMA, "sliding_window": None},
}


def build(family: str, *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random model of a family, in float32 and eval mode.

    Weights are wider than a fresh model's, so that neurons differ and rounding does not decide.
    """
    config = AutoConfig.for_model(family, **{**FAMILIES.get(family, _LLAMA), **overrides})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    return model.eval()


def rollout(prompt: Iterable[int], completion: Iterable[int], *, question_id: str = "q") -> Rollout:
    """A rollout of which only the ids matter."""
    return Rollout(
        question_id=question_id,
        rollout_index=0,
        choice_order=(),
        prompt_ids=tuple(int(token) for token in prompt),
        completion_ids=tuple(int(token) for token in completion),
        token_log_probs=(),
        finish_reason="stop",
        reply="",
        answer=None,
    )


def random_rollouts(lengths: Iterable[int], *, seed: int = 0) -> list[Rollout]:
    """Rollouts of these completion lengths after prompts of 1 to 19 tokens."""
    random = np.random.default_rng(seed)
    return [
        rollout(
            random.integers(3, VOCAB, size=random.integers(1, 20)),
            random.integers(3, VOCAB, size=length),
            question_id=f"q{number}",
        )
        for number, length in enumerate(lengths)
    ]
