"""Template arguments of a run become defaults of the published template, where the template lets them."""

import pytest

from early_checks import templates
from helpers import build_tiny_tokenizer
from neuron_opsd.model.template_defaults import describe_use, with_defaults

MESSAGES = [{"role": "user", "content": "What is 1 + 1?"}]


def tokenizer_with(template: str):
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def render(tokenizer, **arguments) -> str:
    return tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True, **arguments)


@pytest.mark.parametrize("name", ["QWEN3", "SMOLLM3"])
def test_a_switch_becomes_the_default_and_can_still_be_turned(name, tmp_path) -> None:
    own = tokenizer_with(getattr(templates, name))
    with_defaults(own, {"enable_thinking": False}).save_pretrained(tmp_path)
    published = type(own).from_pretrained(tmp_path)
    assert render(published) == render(own, enable_thinking=False) != render(own)
    assert render(published, enable_thinking=True) == render(own, enable_thinking=True)
    assert "enable_thinking=false; they are the defaults" in describe_use(own, {"enable_thinking": False})


def test_without_arguments_nothing_changes() -> None:
    own = tokenizer_with(templates.QWEN3)
    assert with_defaults(own, {}) is own
    assert describe_use(own, {}) == ""


def test_a_template_that_takes_no_default_is_left_alone() -> None:
    own = tokenizer_with(templates.QWEN3)
    assert with_defaults(own, {"no name": 1}) is own
    assert "must be given" in describe_use(own, {"no name": 1})
