"""The answer in a model's reply as a run's settings read it. No model, no gold answer, no torch."""

from collections.abc import Sequence

from neuron_opsd.config import PromptSettings
from neuron_opsd.text.answers import map_answer_back
from neuron_opsd.text.reading import Reading, read_answer

# Raise it when `read_answer` reads some reply otherwise than before. Stored samples of older versions are read again by
# `neuron-opsd evaluate`. What a model was trained on stays as it was.
READER_VERSION = 6


def read_reply(
    reply: str,
    *,
    choices: Sequence[str],
    choice_order: Sequence[int],
    prompts: PromptSettings,
    finish_reason: str,
) -> Reading:
    """Read a reply to a question that showed its `choices` in this order. The letter is one of the original order."""
    reading = read_answer(
        reply,
        choices=[choices[i] for i in choice_order],
        answer_format=prompts.answer_format,
        is_finished=finish_reason == "stop",
        pattern=prompts.answer_pattern,
    )
    return Reading(map_answer_back(reading.answer, choice_order), reading.kind)
