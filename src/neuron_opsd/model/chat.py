"""Messages -> token ids: the ONE door for student and teacher, rollouts, training and evaluation.

Mismatched chat templates between the roles have wrecked published runs, so no other module calls the template. Text
that spells a special token (a question about `<|im_end|>`, or an attack) is encoded as the plain text it is: it cannot
end a turn or open another one.
"""

import re
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from itertools import groupby, takewhile
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import ModelSettings
from neuron_opsd.config.model import TEMPLATE_DATE
from neuron_opsd.errors import ModelError
from neuron_opsd.model import template_limits
from neuron_opsd.text.prompts import Message
from neuron_opsd.text.thinking import closed_in, closing_of, is_part_of_a_mark, names_a_mark, opened_by

_PROBE = "\ue0f0"  # a message that no template writes by itself
_PRIVATE = range(
    0xF0000, 0x10FFFE
)  # private-use characters, of which two mark the places of special-token text
SWITCH = "enable_thinking"  # as chat templates call it
# What transformers gives to templates that write today's date, and the letters of its formats.
_CLOCK, _DATE_LETTERS = "strftime_now", [*"aAbBdeHIjmMpSUwWyYxXcZ", "-d", "-m"]
# Turn tokens, special or not by their flag. Other added tokens (white space, tags, <think>) are ordinary text.
_TURN = re.compile(r"<\|.*\|>|<(?:start|end)_of_turn>", re.DOTALL)


class ChatEncoder:
    """Encodes messages with a tokenizer's chat template, always with the generation prompt appended."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template_args: dict[str, Any] | None = None,
        date: date = TEMPLATE_DATE,
        name: str | None = None,
    ) -> None:
        self.tokenizer, self.date = tokenizer, date
        self.name = name or tokenizer.name_or_path or "this tokenizer"
        self.template_args = dict(template_args or {})
        added = tokenizer.added_tokens_decoder.values()
        self._marks = {
            i for i, t in tokenizer.added_tokens_decoder.items() if t.special and is_part_of_a_mark(t.content)
        }
        tokens = sorted(
            (t.content for t in added if t.special or _TURN.fullmatch(t.content)), key=len, reverse=True
        )
        self._special = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    @classmethod
    def of(
        cls, settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, *, teacher: bool = False
    ) -> "ChatEncoder":
        """The encoder of one role by `model.*`: the teacher's prompt may have template arguments of its own."""
        own = settings.teacher_template_args if teacher else {}
        return cls(
            tokenizer,
            template_args={**settings.template_args, **own},
            date=settings.template_date,
            name=settings.chat_template or settings.name,
        )

    def encode(self, messages: Sequence[Message], *, closes_thinking: bool = False) -> list[int]:
        """The prompt's token ids, special tokens of the template included, none added twice.

        Args:
            messages: The turns.
            closes_thinking: Whether a block of thinking that the template itself opens is closed, so that an answer
                follows.

        Raises:
            ModelError: the template fails, refuses the messages, or leaves out the question.
        """
        pieces = self._pieces(messages, opens_reply=True)
        if closes_thinking and self._opened:
            pieces[-1] = (f"{pieces[-1][0]}\n{closing_of(self._opened)}\n\n", False)
        ids: list[int] = []
        for piece, is_held in pieces:
            if is_held:
                ids += self._encode_as_text(piece)
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids

    def num_before_last(self, messages: Sequence[Message]) -> int:
        """How many of the prompt's tokens come before the text of its last message."""
        other = self.encode([*messages[:-1], {**messages[-1], "content": _PROBE}])
        pairs = zip(self.encode(messages), other, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def render(self, messages: Sequence[Message], *, opens_reply: bool = True) -> str:
        """The prompt as text, for eyes and checks. `opens_reply` appends the generation prompt."""
        return "".join(piece for piece, _ in self._pieces(messages, opens_reply=opens_reply))

    def _pieces(self, messages: Sequence[Message], *, opens_reply: bool) -> list[tuple[str, bool]]:
        """The rendered prompt, cut at every special token's spelling that came from a message (True for those)."""
        held: list[str] = []
        opening, closing = self._unused_in(messages)
        rendered = self._render(
            [self._hold(message, held, opening, closing) for message in messages], opens_reply=opens_reply
        )
        split = re.split(f"{opening}([0-9]+){closing}", rendered)
        try:
            pieces = [(held[int(piece)], True) if i % 2 else (piece, False) for i, piece in enumerate(split)]
        except (LookupError, ValueError):
            raise self._cuts_tokens() from None
        if any(mark in piece for piece, _ in pieces for mark in (opening, closing)):
            raise self._cuts_tokens()
        self._check_question(messages, "".join(piece for piece, _ in pieces))
        return pieces

    def _unused_in(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Two characters that neither a message nor the template holds, so that nothing imitates our marks."""
        texts = [self._template, *(message["content"] for message in messages)]
        unused = (mark for mark in map(chr, _PRIVATE) if not any(mark in text for text in texts))
        return next(unused), next(unused)

    def _cuts_tokens(self) -> ModelError:
        return ModelError(
            f"The chat template of {self.name} cuts a special token's spelling in a message. "
            f"{template_limits.OTHER}"
        )

    def _check_question(self, messages: Sequence[Message], prompt: str) -> None:
        """Refuse a prompt without its question, whole."""
        asked = next((message for message in reversed(messages) if message["role"] == "user"), None)
        if asked and single_spaced(asked["content"]) not in single_spaced(prompt):
            raise ModelError(
                f"The chat template of {self.name} leaves out the question, or changes its text. It is "
                f"{_ends(asked['content'])}. The prompt is {_ends(prompt)}. {template_limits.OTHER}"
            )

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text as a reply starts with it. A special token's spelling stays text."""
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
            system: The system message of the run. Some templates read a switch in it (SmolLM3's /no_think).
        """
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": _PROBE})
        prompt, template = self._render(turns), self._template
        end = prompt.rpartition(_PROBE)[2]
        if opened_by(end) or closed_in(end):
            return bool(opened_by(end))
        if SWITCH in template:
            # The switch off makes another prompt, so in this one it is on.
            off = ChatEncoder(
                self.tokenizer, template_args={**self.template_args, SWITCH: False}, date=self.date
            )
            return prompt != off._render(turns)
        return names_a_mark(template)

    @cached_property
    def _opened(self) -> str:
        """The opening mark of thinking that the template itself writes before every reply, or nothing."""
        return opened_by(self._render([{"role": "user", "content": _PROBE}]).rpartition(_PROBE)[2])

    def _decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return cast(str, text)  # one row of ids, one text

    def _hold(self, message: Message, held: list[str], opening: str, closing: str) -> Message:
        """The message with each special-token text replaced by a numbered mark."""
        if self._special is None:
            return message

        def mark(match: re.Match[str]) -> str:
            held.append(match[0])
            return f"{opening}{len(held) - 1}{closing}"

        return {**message, "content": self._special.sub(mark, message["content"])}

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether the template reads a message's content as a list of parts alone, as those for images may."""
        asked: Message = {"role": "user", "content": _PROBE}
        try:
            return _PROBE not in self._apply([asked]) and _PROBE in self._apply([_in_parts(asked)])
        except ModelError:  # the messages themselves will tell why
            return False

    @cached_property
    def _template(self) -> str:
        """The template, of several the one called default. Its clock is stopped."""
        template = template_of(self.tokenizer)
        if _CLOCK not in template:
            return template
        written = "".join(
            f' | replace("%{letter}", "{self.date.strftime(f"%{letter}")}")' for letter in _DATE_LETTERS
        )
        return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{written} }}}}{{%- endmacro %}}{template}"

    def _render(self, messages: list[Message], *, opens_reply: bool = True) -> str:
        given = [_in_parts(message) for message in messages] if self._wants_parts else messages
        return self._apply(given, opens_reply=opens_reply)

    def _apply(self, messages: Sequence[dict[str, Any]], *, opens_reply: bool = True) -> str:
        """What the template makes of the messages. The date that it may write is fixed, not today's."""
        with template_limits.explained(self.name, messages):
            text = self.tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=opens_reply,
                chat_template=self._template,
                **self.template_args,
            )
        return template_limits.check_text(cast(str, text), messages, self.name)  # tokenize=False

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


def _in_parts(message: Message) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template. Of several, the one called default."""
    return cast(str, tokenizer.get_chat_template())


def single_spaced(text: str) -> str:
    """For comparisons: templates trim and wrap white space at will."""
    return " ".join(text.split())


def _ends(text: str) -> str:
    """The beginning and the end of a text, quoted."""
    return repr(text if len(text) <= 200 else f"{text[:100]} ... {text[-100:]}")
