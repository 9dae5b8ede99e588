"""Where a model's thinking ends and its answer begins, by the marks of the model families. No model, no torch.

Marks are text here. Where a tokenizer has them as special tokens, `model/chat.py` keeps them when it decodes a reply,
and writes the opening mark that a chat template has put into the prompt.
"""

# Opening and closing mark, as they are decoded with special tokens shown.
MARKS = (
    ("<think>", "</think>"),  # Qwen, DeepSeek, GLM, SmolLM, OLMo, Nemotron, Phi, Magistral's first release
    ("[THINK]", "[/THINK]"),  # Mistral, Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    ("<|channel>", "<channel|>"),  # Gemma 4
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<thinking>", "</thinking>"),  # what prompts ask models for, and some learn: these and the next
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<reasoning>", "</reasoning>"),  # Reka Flash, many GRPO recipes
    ("<scratchpad>", "</scratchpad>"),
    ("<analysis>", "</analysis>"),
    ("<reflection>", "</reflection>"),
    ("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)


def strip_thinking(reply: str) -> str:
    """The reply without its thinking. Of a block that was cut before it closed, nothing is left."""
    for opening, closing in MARKS:
        if opening in reply or closing in reply:
            reply = _without_blocks(reply, opening, closing)
    return reply


def _without_blocks(reply: str, opening: str, closing: str) -> str:
    """In one pass: a model that repeats its mark thousands of times is no rarity."""
    kept: list[str] = []
    at = 0
    while (start := reply.find(opening, at)) >= 0 and (end := reply.find(closing, start)) >= 0:
        kept.append(reply[at:start])
        at = end + len(closing)
        while at < len(reply) and reply[at].isspace():
            at += 1
    kept.append(reply[at:start].rstrip() if start >= 0 else reply[at:])  # what begins there was cut
    text = "".join(kept)
    return text.rpartition(closing)[2].lstrip() if closing in text else text  # opened in the prompt


def answer_offset(text: str) -> int:
    """The character after the last closing mark, 0 where there is none."""
    ends = [(text.rfind(closing), len(closing)) for _, closing in MARKS]
    return max((start + length for start, length in ends if start >= 0), default=0)


def opened_by(prompt_end: str) -> str:
    """The mark of a block that the end of a prompt opens and leaves open. Empty where there is none."""
    left_open = (o for o, c in MARKS if prompt_end.rfind(o) > prompt_end.rfind(c))
    return next(left_open, "")


def closed_in(prompt_end: str) -> bool:
    """Whether the end of a prompt closes a block: the reply after it does not think."""
    return any(closing in prompt_end for _, closing in MARKS)


def names_a_mark(template: str) -> bool:
    """Whether a chat template knows of thinking."""
    return any(opening in template for opening, _ in MARKS)


def closing_of(opening: str) -> str:
    """The mark that closes what `opening` opens."""
    return dict(MARKS)[opening]


def is_left_open(reply: str) -> bool:
    """Whether a reply ends inside its thinking: it was cut before it came to an answer."""
    return bool(opened_by(reply))


def is_part_of_a_mark(token: str) -> bool:
    """Whether a special token belongs to the marks, alone or with others."""
    return any(token in mark for marks in MARKS for mark in marks)
