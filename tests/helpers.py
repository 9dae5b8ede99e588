"""A tiny random llama and a byte-level ChatML tokenizer, built in milliseconds; nothing is downloaded."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte; ids 0-2 are special. Whatever is encoded decodes to the same characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def build_tiny_model(
    *, seed: int = 0, spread: float = 0.25, tied: bool = False, num_layers: int = 2
) -> PreTrainedModel:
    """Float32; `spread` makes its distributions far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=spread,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).float().eval()


# The essentials of SmolLM3's template, in our words: the switch is an argument or a word in the system message, the
# header holds the mode, and a reply without thinking begins with an empty block.
SMOLLM3 = (
    "{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif -%}"
    "{%- set given = messages[0].content if messages[0].role == 'system' else '' -%}"
    "{%- if '/no_think' in given %}{% set enable_thinking = false %}{% endif -%}"
    "<|im_start|>system\nReasoning Mode: {{ '/think' if enable_thinking else '/no_think' }}\n\n"
    "{{ given.replace('/no_think', '').replace('/think', '').rstrip() or "
    "('Answer as <think> Thought section </think> Solution section.' if enable_thinking else 'You are SmolLM.') }}"
    "<|im_end|>\n"
    "{%- for message in messages if message.role != 'system' -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{{ '<think>\n\n</think>\n' if message.role == 'assistant' and not enable_thinking else '' }}"
    "{{ message.content + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|im_start|>assistant\n' + ('' if enable_thinking else '<think>\n\n</think>\n') }}"
    "{%- endif -%}"
)
