"""Run by `test_estimate.py`: prints the measured and the estimated MB of two training steps over the weights."""

import sys
import tempfile
import threading
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import build_tiny_model
from neuron_opsd.config import LoraSettings, TrainingSettings
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.memory.count import estimate_memory
from neuron_opsd.memory.passes import Lengths
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.train import train
from training.training_runs import TOKENIZER, make_item

SHAPES = {
    "deep, lora": {
        "layers": 8,
        "hidden": 256,
        "vocabulary": 8_000,
        "method": "lora",
        "prompt": 200,
        "new": 56,
    },
    "wide vocabulary, full": {
        "layers": 2,
        "hidden": 256,
        "vocabulary": 100_000,
        "method": "full",
        "prompt": 100,
        "new": 28,
    },
}


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class EndlessEngine(HFEngine):
    """Never ends a completion early."""

    def __init__(self, model):
        super().__init__(model, TOKENIZER)
        self.end_ids = torch.tensor([-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    shape = SHAPES[sys.argv[1]]
    hidden, prompt, new = shape["hidden"], shape["prompt"], shape["new"]
    config = LlamaConfig(
        vocab_size=shape["vocabulary"], hidden_size=hidden, intermediate_size=3 * hidden, num_attention_heads=4,
        num_hidden_layers=shape["layers"], num_key_value_heads=2, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    settings = TrainingSettings(
        method=shape["method"], lora=LoraSettings(rank=8, alpha=16), batch_size=8, micro_batch_size=8,
        max_new_tokens=new, warmup_steps=0, save_steps=100, guard_rails={"enabled": False},
    )  # fmt: skip
    estimate = estimate_memory(config, torch.float32, settings, Lengths(prompt, 2 * prompt, sampling_rows=8))
    items = LazyItems(16, make_item)
    train(
        build_tiny_model(),
        EndlessEngine,
        items,
        settings.model_copy(update={"max_new_tokens": 2}),
        folder=Path(tempfile.mkdtemp()),
        num_steps=1,
        seed=0,
    )  # libraries load what they need on first use
    model = LlamaForCausalLM(config)
    before = highest = resident()
    done = threading.Event()

    def watch() -> None:
        global highest
        while not done.wait(0.002):
            highest = max(highest, resident())

    prompts = [tuple(range(place, place + prompt)) for place in range(10, 26)]  # none is shared
    items = LazyItems(16, lambda i: TrainingItem("q", prompts[i], 2 * prompts[i], seed=i))
    threading.Thread(target=watch, daemon=True).start()
    train(model, EndlessEngine, items, settings, folder=Path(tempfile.mkdtemp()), num_steps=2, seed=0)
    done.set()
    print((highest - before), (estimate.peak - estimate.weights) / 1e6)  # noqa: T201
