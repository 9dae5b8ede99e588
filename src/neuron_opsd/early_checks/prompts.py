"""One prompt of each role, rendered: the chat template must show what the roles are meant to read.

Templates of the hub drop the thinking of earlier turns, drop earlier turns altogether, refuse a system message, or
render nothing of a message that is plain text. Each of these makes a run of nonsense that looks like a run.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import Config
from neuron_opsd.errors import ConfigError, ModelError
from neuron_opsd.model.chat import ChatEncoder, single_spaced, template_of
from neuron_opsd.records import Demonstration, Question
from neuron_opsd.text.prompts import Message, teacher_messages
from neuron_opsd.text.thinking import MARKS

logger = logging.getLogger(__name__)

OTHER = "Give another template with model.chat_template=FILE."
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]{6,}>")  # as Python prints an object
THOUGHT, REPLY = "This is what it thought.", "This is reply number {}."


@dataclass(frozen=True, slots=True)
class ExamplePrompts:
    """What both roles read for one question. The teacher's demonstrations have placeholders for replies."""

    student_messages: list[Message]
    teacher_messages: list[Message]
    student: str
    teacher: str


def example_prompts(
    config: Config, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, *, thought: str = ""
) -> ExamplePrompts:
    """Both prompts of a question of the pool, one with a system message of its own if there is one."""
    pool = [question for question in questions if question.split == "train"]
    asked = next((question for question in pool if question.system), pool[0])
    others = [question for question in pool if question is not asked] or [asked]
    shown = [
        (
            other,
            Demonstration(
                question_id=other.question_id,
                choice_order=tuple(range(len(other.choices))),
                reply=thought + REPLY.format(number),
                distance=1.0,
            ),
        )
        for number, other in enumerate(others[: min(2, config.contexts.num_demonstrations)], start=1)
    ]
    student, teacher = (
        teacher_messages(
            asked,
            demonstrations,
            choice_order=tuple(range(len(asked.choices))),
            answer_format=config.prompts.answer_format,
            system=config.prompts.system,
            keep_thinking=bool(thought),
        )
        for demonstrations in ((), shown if reads_context(config) else ())
    )
    encoders = [ChatEncoder.of(config.model, tokenizer, teacher=is_teacher) for is_teacher in (False, True)]
    return ExamplePrompts(student, teacher, encoders[0].render(student), encoders[1].render(teacher))


def reads_context(config: Config) -> bool:
    """Whether a prompt of this run shows demonstrations, or an own answer, before the question."""
    return config.training.is_distillation or config.evaluation.context


def check_prompts(
    config: Config, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase
) -> ExamplePrompts:
    """Refuse a chat template that does not show what it is given.

    Raises:
        ModelError: what is missing from which prompt.
        ConfigError: a template argument that the template does not read, or thinking that it does not keep.
    """
    check_template_args(config, tokenizer)
    prompts = example_prompts(config, questions, tokenizer)
    _check_shown(prompts.student_messages, prompts.student, "student")
    _check_shown(prompts.teacher_messages, prompts.teacher, "teacher")
    encoder = ChatEncoder.of(config.model, tokenizer)
    _check_repeatable(encoder, prompts)
    _check_opens_reply(encoder, prompts.student_messages)
    if config.prompts.keep_thinking and len(prompts.teacher_messages) > len(prompts.student_messages):
        _check_keeps_thinking(config, questions, tokenizer)
    return prompts


def check_template_args(config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse arguments that the template never reads: they would change nothing, and nobody would know.

    Raises:
        ConfigError: names the setting and the argument.
    """
    template = template_of(tokenizer)
    for setting in ("template_args", "teacher_template_args"):
        for name in getattr(config.model, setting):
            if not re.search(rf"\b{re.escape(name)}\b", template):
                raise ConfigError(
                    f"model.{setting} has {name}, which the chat template does not read. Leave it out, or correct its "
                    "name."
                )


def _check_shown(messages: Sequence[Message], prompt: str, role: str) -> None:
    """Refuse a prompt in which a message is missing. One without its question is never rendered."""
    text = single_spaced(prompt)
    if text.count(single_spaced(messages[-1]["content"])) > 1:
        logger.warning("the chat template shows the question more than once in the %s's prompt", role)
    missing = [message for message in messages if single_spaced(message["content"]) not in text]
    if not missing:
        return
    if missing[0]["role"] == "system":
        raise ModelError(
            f"The chat template leaves out the system message: it is not in the {role}'s prompt. Leave prompts.system "
            f"(and `system` of the questions) empty, or give another template with model.chat_template=FILE."
        )
    raise ModelError(
        f"The chat template drops earlier turns: {len(missing)} of {len(messages) - 1} messages before the question "
        f"are not in the {role}'s prompt, so the teacher would read what the student reads. {OTHER}"
    )


def _check_repeatable(encoder: ChatEncoder, prompts: ExamplePrompts) -> None:
    """Refuse a template that draws at random, or writes an object's address: no run could be repeated."""
    address = _ADDRESS.search(prompts.student)
    if address or encoder.render(prompts.student_messages) != prompts.student:
        what = f"writes {address[0]!r}" if address else "gives two prompts for one question"
        raise ModelError(
            f"The chat template of {encoder.name} {what}, so that no run could be repeated. {OTHER}"
        )


def _check_opens_reply(encoder: ChatEncoder, messages: list[Message]) -> None:
    """Refuse a prompt that ends before the model's turn begins: the model would go on with the user's."""
    reply = REPLY.format(0)
    try:
        answered = encoder.render([*messages, {"role": "assistant", "content": reply}], opens_reply=False)
    except ModelError:  # a template for prompts alone
        return
    prompt, whole = _bare(encoder.render(messages)), _bare(answered.rpartition(reply)[0])
    end = str(encoder.tokenizer.eos_token or "")
    if end and prompt.startswith(whole) and end in prompt[len(whole) :]:
        raise ModelError(
            f"The chat template of {encoder.name} ends the model's turn before it begins: it writes "
            f"{prompt[len(whole) :]!r} after the place where a reply stands. {OTHER}"
        )
    if encoder.render(messages) != encoder.render(messages, opens_reply=False):
        return  # what more stands before a finished reply, such as a channel, the model writes itself
    missing = whole[len(prompt) :] if whole.startswith(prompt) else ""
    if missing:
        raise ModelError(
            f"The chat template does not open the model's turn: it writes {missing!r} before a reply, but not at the "
            f"end of a prompt (add_generation_prompt). {OTHER}"
        )


def _bare(text: str) -> str:
    """Without white space and marks of thinking, which templates write at will where a reply begins."""
    for pair in MARKS:
        for mark in pair:
            text = text.replace(mark, "")
    return "".join(text.split())


def _check_keeps_thinking(
    config: Config, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase
) -> None:
    template = template_of(tokenizer)
    opening, closing = next((pair for pair in MARKS if pair[1] in template), MARKS[0])
    block = f"{opening}\n{THOUGHT}\n{closing}\n\n"
    prompt = example_prompts(config, questions, tokenizer, thought=block).teacher
    if THOUGHT not in prompt:
        raise ConfigError(
            "prompts.keep_thinking is true, but this chat template drops the thinking of earlier turns: the "
            "demonstrations would be shown without it. Use prompts.keep_thinking=false, or give another template with "
            "model.chat_template=FILE."
        )
