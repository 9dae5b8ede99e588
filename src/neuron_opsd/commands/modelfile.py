"""Ollama's Modelfile for a model: its chat template in Ollama's language, stop tokens and sampling.

Ollama reads no Jinja. The template is found by rendering: marked messages go through the model's own template, and what
stands between the marks is what Ollama must write between messages.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from neuron_opsd.config import Config
from neuron_opsd.errors import ModelError
from neuron_opsd.model.chat import SWITCH, ChatEncoder
from neuron_opsd.model.generation import published_end_ids
from neuron_opsd.text.prompts import Message

FIRST_LINE = "# Written by neuron-opsd export."
SYSTEM, FIRST, REPLY, SECOND = (
    f"\ue0f1{i}\ue0f2" for i in range(4)
)  # messages that no template writes by itself
CONTEXT = 4096  # tokens. Ollama reserves memory for as many


@dataclass(frozen=True, slots=True)
class Turns:
    """What a chat template writes around messages. A conversation goes user, reply, user, ... after the system's."""

    begin: str  # before the first user's turn, where there is no system message
    system: tuple[str, str] | None  # around a system message. None: the template refuses one
    user: str  # before each user's message
    reply: str  # between a user's message and an earlier reply
    after: str  # after an earlier reply, before the next `user`
    opens: dict[
        bool | None, str
    ]  # after the last user's message, by the thinking switch. None: as it is by default


def modelfile(config: Config, model: Path, file_name: str) -> str:
    """The text of a Modelfile.

    Args:
        config: Of the run: sampling as in its evaluation.
        model: The folder with the tokenizer and generation configuration.
        file_name: Of the GGUF file, in the same folder.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    turns, ends = find_turns(tokenizer), published_end_ids(model, tokenizer)
    lines = [
        f"{FIRST_LINE} Then: ollama create NAME -f Modelfile, and: ollama run NAME",
        f"FROM ./{file_name}",
        f"PARAMETER temperature {config.evaluation.temperature:g}",
        f"PARAMETER top_p {config.evaluation.top_p:g}",
        f"PARAMETER num_ctx {CONTEXT}",
        *(f"PARAMETER stop {json.dumps(tokenizer.decode([i]), ensure_ascii=False)}" for i in ends),
    ]
    if turns is None:
        lines.append(
            "# This chat template could not be translated. Ollama uses the one of its own that is most alike."
        )
    else:
        lines.append(f'TEMPLATE """{go_template(turns)}"""')
    if turns and len(turns.opens) > 1:
        lines.append("# Thinking: ollama run NAME --think, or --think=false")
    return "\n".join(lines) + "\n"


def find_turns(tokenizer: PreTrainedTokenizerBase) -> Turns | None:
    """What the tokenizer's template writes around messages. None where it is more than that."""
    plain = _between(tokenizer, [FIRST])
    both = _between(tokenizer, [FIRST, REPLY, SECOND])
    if plain is None or both is None or both[0] != plain[0] or both[3] != plain[1]:
        return None
    # What begins a user's turn is what the first and the second have in common.
    user = _common_end(plain[0], both[2])
    with_system = _between(tokenizer, [SYSTEM, FIRST], has_system=True)
    system = None
    if with_system and with_system[1].endswith(user) and with_system[2] == plain[1]:
        system = (with_system[0], with_system[1].removesuffix(user))
    opens: dict[bool | None, str] = {None: plain[1]}
    if SWITCH in str(tokenizer.chat_template):
        switched = {is_on: _between(tokenizer, [FIRST], **{SWITCH: is_on}) for is_on in (True, False)}
        opens |= {is_on: pieces[1] for is_on, pieces in switched.items() if pieces and pieces[0] == plain[0]}
    if len(opens) < 3 or len(set(opens.values())) == 1:
        opens = {None: plain[1]}
    return Turns(
        begin=plain[0].removesuffix(user),
        system=system,
        user=user,
        reply=both[1],
        after=both[2].removesuffix(user),
        opens=opens,
    )


def _between(
    tokenizer: PreTrainedTokenizerBase, contents: list[str], *, has_system: bool = False, **arguments: Any
) -> list[str] | None:
    """What stands before, between and after messages of these contents. None where the template refuses them."""
    roles = ["system", "user"] if has_system else ["user", "assistant", "user"]
    messages: list[Message] = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    try:
        rest = ChatEncoder(tokenizer, template_args=arguments).render(messages)
    except ModelError:
        return None
    pieces = []
    for content in contents:
        if rest.count(content) != 1:
            return None
        piece, rest = rest.split(content)
        pieces.append(piece)
    return [*pieces, rest]


def _common_end(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]


def go_template(turns: Turns) -> str:
    """The same in Go's template language, as Ollama has it."""
    begin = _say(turns.begin)
    if turns.system:
        begin = (
            f"{{{{ if .System }}}}{_say(turns.system[0])}{{{{ .System }}}}{_say(turns.system[1])}"
            f"{{{{ else }}}}{begin}{{{{ end }}}}"
        )
    opens = _say(turns.opens[None])
    if len(turns.opens) > 1:
        opens = (
            f"{{{{ if not $.IsThinkSet }}}}{opens}{{{{ else if $.Think }}}}{_say(turns.opens[True])}"
            f"{{{{ else }}}}{_say(turns.opens[False])}{{{{ end }}}}"
        )
    # Ollama knows by this that the model thinks, and in which tags. The tags must be text.
    thinks = (
        "{{ if and $last .Thinking }}<think>{{ .Thinking }}</think>{{ end }}" if len(turns.opens) > 1 else ""
    )
    return (
        begin
        + "{{ range $i, $message := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        + f'{{{{ if eq .Role "user" }}}}{_say(turns.user)}{{{{ .Content }}}}'
        + (
            opens
            if turns.opens == {None: turns.reply}
            else f"{{{{ if $last }}}}{opens}{{{{ else }}}}{_say(turns.reply)}{{{{ end }}}}"
        )
        + f'{{{{ else if eq .Role "assistant" }}}}{thinks}{{{{ .Content }}}}'
        + (f"{{{{ if not $last }}}}{_say(turns.after)}{{{{ end }}}}" if turns.after else "")
        + "{{ end }}{{ end }}"
    )


def _say(text: str) -> str:
    """An action that writes this text. JSON's strings are Go's, as long as they keep their characters."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
