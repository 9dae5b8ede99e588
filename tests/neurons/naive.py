"""The method a second time, from raw weights in float64, with plain loops: slow, obvious, sharing nothing."""

import numpy as np


def naive_llama_neurons(model, ids):
    """(gate, gate_up), each (layers, tokens, d_ff), of a llama model; no module of it is called."""
    config = model.config
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    heads, dim = config.num_attention_heads, config.head_dim
    groups = heads // config.num_key_value_heads
    state = weights["model.embed_tokens.weight"][ids]
    gates, products = [], []
    for layer in range(config.num_hidden_layers):
        own = {
            name.removeprefix(f"model.layers.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        normed = _rms_norm(state, own["input_layernorm.weight"], config.rms_norm_eps)
        query, key, value = (normed @ own[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        attended = np.zeros_like(query)
        for head in range(heads):
            mine, shared = (
                slice(head * dim, (head + 1) * dim),
                slice(head // groups * dim, (head // groups + 1) * dim),
            )
            q, k = _rotate(query[:, mine]), _rotate(key[:, shared])
            scores = q @ k.T / np.sqrt(dim)
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            attended[:, mine] = scores / scores.sum(axis=1, keepdims=True) @ value[:, shared]
        state = state + attended @ own["self_attn.o_proj.weight"].T
        normed = _rms_norm(state, own["post_attention_layernorm.weight"], config.rms_norm_eps)
        gate = normed @ own["mlp.gate_proj.weight"].T
        gate = gate / (1 + np.exp(-gate))
        product = gate * (normed @ own["mlp.up_proj.weight"].T)
        state = state + product @ own["mlp.down_proj.weight"].T
        gates.append(gate)
        products.append(product)
    return np.stack(gates), np.stack(products)


def _rms_norm(state, weight, eps):
    return state / np.sqrt((state**2).mean(axis=1, keepdims=True) + eps) * weight


def _rotate(vectors, base=10_000.0):
    tokens, dim = vectors.shape
    angle = np.arange(tokens)[:, None] * base ** (-np.arange(0, dim, 2) / dim)[None, :]
    cos, sin = np.cos(np.concatenate([angle, angle], axis=1)), np.sin(np.concatenate([angle, angle], axis=1))
    half = dim // 2
    turned = np.concatenate([-vectors[:, half:], vectors[:, :half]], axis=1)
    return vectors * cos + turned * sin


def naive_scores(neurons, down, unembedding, states, tokens, *, magnitude=False, scale=None):
    """S as {(layer, neuron, place of the token): value}.

    Args:
        neurons: (layers, positions, d_ff).
        down: A (hidden, d_ff) matrix a layer.
        unembedding: (vocab, hidden).
        states: The position whose neurons are read for each token.
        tokens: The token ids.
        magnitude: |k| * norm instead of k * readout.
        scale: The final norm's weight, or None.
    """
    scores = {}
    for layer in range(len(neurons)):
        for place, (state, token) in enumerate(zip(states, tokens, strict=True)):
            row = unembedding[token] if scale is None else unembedding[token] * scale
            for neuron in range(neurons.shape[2]):
                k, column = neurons[layer, state, neuron], down[layer][:, neuron]
                value = abs(k) * np.sqrt((column**2).sum()) if magnitude else k * (column @ row)
                scores[layer, neuron, place] = value
    return scores


def naive_sets(
    scores, *, d_ff, num_tokens, chunk_tokens, num_entries, overlap_size, count_set="union", per_token=None
):
    """(count set, overlap set, size of each chunk's own count set), ids as layer * d_ff + neuron."""
    layers = {layer for layer, _, _ in scores}
    counted, best, chunk_sizes = set(), {}, []
    for first in range(0, num_tokens, chunk_tokens):
        places = range(first, min(first + chunk_tokens, num_tokens))
        chunk_best = {}
        for layer in layers:
            budgets = [([place], per_token) for place in places] if per_token else [(places, num_entries)]
            for budget_places, budget in budgets:
                entries = [
                    (-scores[layer, i, place], i, place) for i in range(d_ff) for place in budget_places
                ]
                for negative, i, _ in sorted(entries)[:budget]:
                    key = layer * d_ff + i
                    chunk_best[key] = max(-negative, chunk_best.get(key, -np.inf))
        top = set(_top(chunk_best, overlap_size))
        in_chunk = set(chunk_best) if count_set == "union" else top
        counted |= in_chunk
        chunk_sizes.append(len(in_chunk))
        for key, value in chunk_best.items():
            best[key] = max(value, best.get(key, -np.inf))
    return counted, sorted(_top(best, overlap_size)), chunk_sizes


def _top(best, size):
    ranked = sorted((-value, key) for key, value in best.items() if value > 0)
    return [key for _, key in ranked[:size]]
