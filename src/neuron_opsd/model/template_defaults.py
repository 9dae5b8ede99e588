"""The run's template arguments as defaults of the published chat template: who chats with it need not know them."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from neuron_opsd.errors import ModelError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.text.prompts import Message

EXAMPLE: list[Message] = [
    {"role": "user", "content": "One question."},
    {"role": "assistant", "content": "One reply."},
    {"role": "user", "content": "Another question."},
]


def with_defaults(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """A copy whose template has these arguments as defaults. The tokenizer itself where the template does not allow it.

    Whether it does is seen by rendering: without arguments, the copy must write what the template writes with them.
    """
    if not given or not isinstance(tokenizer.chat_template, str):
        return tokenizer
    changed = copy.copy(tokenizer)
    changed.chat_template = "".join(map(_default, given, given.values())) + tokenizer.chat_template
    try:
        wanted = ChatEncoder(tokenizer, template_args=dict(given)).render(EXAMPLE)
        return changed if ChatEncoder(changed).render(EXAMPLE) == wanted else tokenizer
    except ModelError:
        return tokenizer


def _default(name: str, value: Any) -> str:
    literal = (
        "none" if value is None else json.dumps(value)
    )  # true, 3, "text" and lists are Jinja's own spelling
    return f"{{%- if {name} is not defined %}}{{%- set {name} = {literal} %}}{{%- endif %}}"


def describe_use(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any]) -> str:
    """A sentence for the card: which arguments the prompts had, and whether the template here has them by itself."""
    if not given:
        return ""
    named = ", ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
    by_itself = with_defaults(tokenizer, given) is not tokenizer
    how = "are the defaults of its chat template" if by_itself else "must be given to its chat template"
    return f"It was trained and evaluated with the template arguments {named}; they {how}."
