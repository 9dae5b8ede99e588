"""Messages -> token ids: the ONE door for student and teacher, rollouts, training and evaluation.

Mismatched chat templates between the roles have wrecked published runs, so no other module calls the template. Text
that spells a special token (a question about `<|im_end|>`, or an attack) is encoded as the plain text it is: it cannot
end a turn or open another one.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from neuron_opsd.errors import ModelError
from neuron_opsd.text.prompts import Message
from neuron_opsd.text.thinking import closed_in, is_part_of_a_mark, names_a_mark, opened_by

# Marks the places of special-token text inside a message; private-use characters that no sane text holds.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
SWITCH = "enable_thinking"  # as chat templates call it
# Turn tokens, special or not by their flag. Other added tokens (white space, tags, <think>) are ordinary text.
_TURN = re.compile(r"<\|.*\|>|<(?:start|end)_of_turn>", re.DOTALL)


class ChatEncoder:
    """Encodes messages with a tokenizer's chat template, always with the generation prompt appended."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, template_args: dict[str, Any] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.template_args = dict(template_args or {})
        added = tokenizer.added_tokens_decoder.values()
        self._marks = {
            i for i, t in tokenizer.added_tokens_decoder.items() if t.special and is_part_of_a_mark(t.content)
        }
        tokens = sorted(
            (t.content for t in added if t.special or _TURN.fullmatch(t.content)), key=len, reverse=True
        )
        self._special = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids, special tokens of the template included, none added twice.

        Raises:
            ModelError: the template refuses the messages (some refuse a system turn).
        """
        held: list[str] = []
        rendered = self._render([self._hold(message, held) for message in messages])
        ids: list[int] = []
        for number, piece in enumerate(re.split(f"{_OPEN}([0-9]+){_CLOSE}", rendered)):
            if number % 2:
                ids += self._encode_as_text(held[int(piece)])
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text as a reply starts with it; a special token's spelling stays text."""
        return self._encode_rest(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown: for eyes, never for encoding again."""
        return self._decode(ids, skip_special_tokens=False)

    def decode_reply(self, ids: Sequence[int]) -> str:
        """The reply as a person reads it: without special tokens, but with the marks around its thinking."""
        runs = groupby(ids, key=self._marks.__contains__)
        pieces = [self._decode(list(run), skip_special_tokens=not is_mark) for is_mark, run in runs]
        return (self._opened + "".join(pieces)).strip()

    def thinks(self, *, system: str | None = None) -> bool:
        """Whether a reply begins with thinking, by what the template writes and by the switch that it has.

        Args:
            system: The system message of the run; some templates read a switch in it (SmolLM3's /no_think).
        """
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": _OPEN})
        prompt, template = self._render(turns), str(self.tokenizer.chat_template)
        end = prompt.rpartition(_OPEN)[2]
        if opened_by(end) or closed_in(end):
            return bool(opened_by(end))
        if SWITCH in template:
            # The switch off makes another prompt, so in this one it is on.
            off = ChatEncoder(self.tokenizer, template_args={**self.template_args, SWITCH: False})
            return prompt != off._render(turns)
        return names_a_mark(template)

    @cached_property
    def _opened(self) -> str:
        """The opening mark of thinking that the template itself writes before every reply, or nothing."""
        return opened_by(self._render([{"role": "user", "content": _OPEN}]).rpartition(_OPEN)[2])

    def _decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return cast(str, text)  # one row of ids, one text

    def _hold(self, message: Message, held: list[str]) -> Message:
        """The message with each special-token text replaced by a numbered mark."""
        content = message["content"].replace(_OPEN, "").replace(_CLOSE, "")
        if self._special is None:
            return {**message, "content": content}

        def mark(match: re.Match[str]) -> str:
            held.append(match[0])
            return f"{_OPEN}{len(held) - 1}{_CLOSE}"

        return {**message, "content": self._special.sub(mark, content)}

    def _render(self, messages: list[Message]) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.template_args
            )
            return cast(str, text)  # tokenize=False
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages[:3])
            raise ModelError(
                f"The chat template refuses the turns ({roles}, ...): {error}. If it refuses a system turn, leave "
                "prompts.system empty; else give another template with model.chat_template."
            ) from None

    def _encode_as_text(self, token: str) -> list[int]:
        """Ids of a special token's spelling as text: first character and rest apart, so that it never matches."""
        first = self.tokenizer(token[:1], add_special_tokens=False)["input_ids"]
        return first + (self._encode_rest(token[1:]) if len(token) > 1 else [])

    def _encode_rest(self, text: str) -> list[int]:
        match = self._special.search(text) if self._special else None
        if match is None:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        before, after = text[: match.start()], text[match.end() :]
        return [
            *(self._encode_rest(before) if before else []),
            *self._encode_as_text(match[0]),
            *(self._encode_rest(after) if after else []),
        ]
