"""The Modelfile's template writes what the chat template writes. Its actions are read as Jinja here."""

import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from early_checks import templates
from helpers import CHATML, SMOLLM3, build_tiny_model, build_tiny_tokenizer
from neuron_opsd.commands.modelfile import find_turns, go_template, modelfile
from neuron_opsd.config import load_config
from neuron_opsd.model.chat import ChatEncoder

SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "3 + 3?"},
]
AS_JINJA = {
    "if .System": "{% if System %}",
    ".System": "{{ System }}",
    "range $i, $message := .Messages": "{% for message in Messages %}",
    "$last := eq (len (slice $.Messages $i)) 1": "{% set last = loop.last %}",
    'if eq .Role "user"': "{% if message.role == 'user' %}",
    'else if eq .Role "assistant"': "{% elif message.role == 'assistant' %}",
    ".Content": "{{ message.content }}",
    "if $last": "{% if last %}",
    "if not $last": "{% if not last %}",
    "if not $.IsThinkSet": "{% if not IsThinkSet %}",
    "else if $.Think": "{% elif Think %}",
    "if and $last .Thinking": "{% if last and message.Thinking %}",
    ".Thinking": "{{ message.Thinking }}",
    "else": "{% else %}",
}


def by_ollama(template: str, messages: list[dict[str, str]], **values: Any) -> str:
    """What Ollama would write: the same actions, in Jinja."""
    opened: list[str] = []

    def translate(found: re.Match[str]) -> str:
        action = found[1]
        if action == "end":
            return "{% endfor %}" if opened.pop() == "range" else "{% endif %}"
        if (word := action.split()[0]) in ("if", "range"):
            opened.append(word)
        return found[0] if action.startswith('"') else AS_JINJA[action]

    source = re.sub(r"\{\{ (.*?) \}\}", translate, template)
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return Environment().from_string(source).render(System=system, Messages=messages, **values)


@pytest.mark.parametrize(
    "template", [CHATML, SMOLLM3, templates.QWEN3, None], ids=["chatml", "smollm3", "qwen3", "smollm2"]
)
@pytest.mark.parametrize("messages", [TALK[:1], TALK, [SYSTEM, *TALK[:1]], [SYSTEM, *TALK]], ids=len)
def test_the_template_says_the_same_in_ollama(template: str | None, messages: list[dict[str, str]]) -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = template or SMOLLM2
    turns = find_turns(tokenizer)
    assert turns
    assert by_ollama(go_template(turns), messages) == ChatEncoder(tokenizer).render(messages)
    if len(turns.opens) > 1:
        for is_on in (True, False):
            asked = ChatEncoder(tokenizer, template_args={"enable_thinking": is_on}).render(messages)
            assert by_ollama(go_template(turns), messages, IsThinkSet=True, Think=is_on) == asked


SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM, a \"helpful\" assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_the_switch_of_thinking_is_ollamas(tmp_path: Path) -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = templates.QWEN3
    build_tiny_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = load_config("neuron_opsd", values={"model.name": "any", "questions.path": "any"})
    text = modelfile(config, tmp_path, "model.gguf")
    assert "\nFROM ./model.gguf\n" in text
    assert f"\nPARAMETER temperature {config.evaluation.temperature:g}\n" in text
    assert '\nPARAMETER stop "<|im_end|>"\n' in text
    assert "<think>{{ .Thinking }}</think>" in text  # by this Ollama knows that the model can think
    assert text.endswith("# Thinking: ollama run NAME --think, or --think=false\n")


def test_a_template_that_is_more_than_turns_is_left_to_ollama(tmp_path: Path) -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = CHATML.replace(
        "{{ message['content'] }}", "{{ message['content'] }}, {{ loop.index }}"
    )
    assert find_turns(tokenizer) is None
