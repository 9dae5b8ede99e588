"""One step of decoding with prompts held once, beside one with a copy for each row, interleaved.

    python benchmarks/decoding.py --dtype bfloat16 --prompts 2 --rows 8 --prompt-tokens 1500 --written 32

The caches hold random keys and values of the model's shapes, because the time does not depend on them. What is timed is
the CPU time of one step of the whole model, its logits included and sampling not. `held` is the tokens whose keys and
values each cache has places for.
"""

# ruff: noqa: T201
import argparse
import time
from statistics import median

import torch
from transformers import DynamicCache

from neuron_opsd.config import ModelSettings
from neuron_opsd.engines.shared_prompts import SharedPromptCache
from neuron_opsd.engines.slot_cache import SlotCache, attention_states
from neuron_opsd.model.load import CausalLM, load_model

LIMIT = 256  # tokens that a row may write


def main() -> None:
    """Time both caches, step by step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8, help="completions of each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=250)
    parser.add_argument("--written", type=int, default=32, help="tokens that each row has written before")
    parser.add_argument("--steps", type=int, default=6, help="of which the first is not counted")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, _ = load_model(ModelSettings(name=arguments.model, dtype=arguments.dtype))
    copied = SlotCache(max_columns=arguments.prompt_tokens + LIMIT)
    shared = SharedPromptCache(max_columns=LIMIT)
    for cache in (copied, shared):
        fill(cache, model, arguments)
    tokens = torch.arange(arguments.prompts * arguments.rows)
    seconds = [(step(model, copied, tokens), step(model, shared, tokens)) for _ in range(arguments.steps)][1:]
    places = shared.num_slots * shared.capacity + shared.prompts.num_slots * shared.prompts.capacity
    print(
        f"copied {1000 * median(a for a, _ in seconds):.0f} ms, shared {1000 * median(b for _, b in seconds):.0f} ms, "
        f"ratio {median(a / b for a, b in seconds):.2f}; held {copied.num_slots * copied.capacity:,} and {places:,}"
    )


@torch.inference_mode()
def fill(cache: SlotCache, model: CausalLM, arguments: argparse.Namespace) -> None:
    """Prompts, and rows that have gone on from them."""
    read = DynamicCache()
    ids = torch.zeros(1, 1, dtype=torch.long)
    model(input_ids=ids, past_key_values=read)
    prompts = DynamicCache()
    for i, layer in enumerate(read.layers):
        keys, values = (
            torch.randn(
                arguments.prompts, one.shape[1], arguments.prompt_tokens, one.shape[3], dtype=one.dtype
            )
            for one in attention_states(layer)
        )
        prompts.update(keys, values, i)
    cache.admit(prompts, [arguments.prompt_tokens] * arguments.prompts, [arguments.rows] * arguments.prompts)
    for _ in range(arguments.written):
        cache.make_room()
        cache.step()


@torch.inference_mode()
def step(model: CausalLM, cache: SlotCache, tokens: torch.Tensor) -> float:
    """CPU seconds of one token for every row."""
    start = time.process_time()
    cache.next_logits(model, tokens)
    return time.process_time() - start


if __name__ == "__main__":
    main()
