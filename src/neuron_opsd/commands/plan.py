"""`run --dry-run`: what a run would read and which settings it would have. Nothing is written."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neuron_opsd.config import Config, describe_setting
from neuron_opsd.early_checks.prompts import example_prompts
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_tokenizer
from neuron_opsd.records import Question
from neuron_opsd.text.prompts import student_messages

NUM_QUESTIONS = 3


def describe_prompts(config: Config, questions: Sequence[Question]) -> Iterator[str]:
    """Three questions as the model reads them, and what the teacher reads before the first."""
    tokenizer = load_tokenizer(config.model)
    encoder = ChatEncoder.of(config.model, tokenizer)
    pool = [question for question in questions if question.split == "train"]
    for question in pool[:NUM_QUESTIONS]:
        messages = student_messages(
            question,
            choice_order=tuple(range(len(question.choices))),
            answer_format=config.prompts.answer_format,
            system=config.prompts.system,
        )
        size = len(encoder.encode(messages))
        yield f"=== question {question.question_id} as the model reads it, {size} tokens ==="
        yield encoder.render(messages)
    prompts = example_prompts(config, questions, tokenizer)
    if len(prompts.teacher_messages) > len(prompts.student_messages):
        yield "=== what the teacher reads, with placeholders for the model's replies ==="
        yield prompts.teacher


def describe_settings(config: Config, recipe: Config, *, shows_all: bool = False) -> Iterator[str]:
    """The settings that differ from the recipe's, or all of them, each with its meaning."""
    given, usual = _flat(config.model_dump(mode="json")), _flat(recipe.model_dump(mode="json"))
    for name, value in given.items():
        is_other = value != usual.get(name)
        if is_other or shows_all:
            instead = f" (recipe: {usual.get(name)})" if is_other else ""
            yield f"{name}: {value}{instead}. {describe_setting(name)}".rstrip()


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """By dotted name. A mapping that is itself a setting's value (template arguments) stays whole."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        dotted = f"{before}{name}"
        is_section = isinstance(value, Mapping) and not describe_setting(dotted)
        flat |= _flat(value, f"{dotted}.") if is_section else {dotted: value}
    return flat
