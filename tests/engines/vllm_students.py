"""A student far from its base model, and what it writes greedily, by transformers."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedTokenizerBase

from engines.vllm_environment import MODEL
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.load import configured_end_ids, load_model

TEXTS = ("Hi! Say one word.", "What is the capital of France?")
GREEDY = Sampling(temperature=0, max_new_tokens=12)


def far_student() -> tuple[PeftModel, PreTrainedTokenizerBase, list[int]]:
    """Student, tokenizer and end tokens."""
    model, tokenizer = load_model(MODEL)
    torch.manual_seed(3)
    student = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    with torch.no_grad():  # far enough from the base model to write other words
        for name, weights in student.named_parameters():
            if "lora_B" in name:
                weights.normal_(0, 0.05)
    return student, tokenizer, sorted(configured_end_ids(MODEL, tokenizer))


def prompts(tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    turns = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    return [tuple(tokenizer(turns[0] + text + turns[1])["input_ids"]) for text in TEXTS]


def greedy_ids(student: PeftModel, tokenizer: PreTrainedTokenizerBase, *, adapter: bool) -> list[list[int]]:
    """Of each prompt, with the adapter or without it."""
    engine = HFEngine(student, tokenizer)
    asked = [Request(prompt_ids=ids, seeds=(0,)) for ids in prompts(tokenizer)]
    if adapter:
        done = dict(engine.generate(asked, GREEDY))
    else:
        with student.disable_adapter():
            done = dict(engine.generate(asked, GREEDY))
    return [list(done[i][0].token_ids) for i in range(len(asked))]
