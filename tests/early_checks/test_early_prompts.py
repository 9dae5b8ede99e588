"""What a chat template leaves out, keeps or refuses is told before a run, in words that name the way out."""

import dataclasses
from contextlib import nullcontext
from datetime import date

import pytest

from early_checks import templates
from helpers import build_tiny_tokenizer
from neuron_opsd.config import Config
from neuron_opsd.early_checks.prompts import check_prompts, example_prompts
from neuron_opsd.early_checks.questions import check_exact, check_orders
from neuron_opsd.errors import ConfigError, ModelError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.records import Question

QUESTIONS = [
    Question(question_id=f"q{i}", domain="sums", question=f"What is {i} + 1?", choices=("1", "2"))
    for i in range(4)
]


def config_of(**sections) -> Config:
    given = {"model": {"name": "any"}, "questions": {"path": "any"}} | sections
    return Config.model_validate(given)


def tokenizer_with(template: str):
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    "name", ["CHATML", "QWEN3", "SMOLLM3", "LLAMA32", "GEMMA2", "MISTRAL", "PARTS", "GPT_OSS"]
)
def test_templates_that_show_everything_pass(name: str) -> None:
    prompts = check_prompts(config_of(), QUESTIONS, tokenizer_with(getattr(templates, name)))
    assert "What is 0 + 1?" in prompts.student
    for text in ("What is 1 + 1?", "This is reply number 1.", "This is reply number 2.", "What is 0 + 1?"):
        assert text in prompts.teacher


@pytest.mark.parametrize(
    ("name", "sections", "error", "expected"),
    [
        ("NOTHING", {}, ModelError, "leaves out the question"),
        ("LAST_TURN_ALONE", {}, ModelError, "drops earlier turns: 4 of 4"),
        ("NEVER_OPENS", {}, ModelError, "does not open the model's turn"),
        ("AT_RANDOM", {}, ModelError, "gives two prompts for one question"),
        ("AN_OBJECT", {}, ModelError, "writes '<generator object .*no run could be repeated"),
        ("ENDS_THE_TURN", {}, ModelError, "ends the model's turn before it begins"),
        ("NO_SYSTEM", {"prompts": {"system": "Be brief."}}, ModelError, "leaves out the system message"),
        ("GEMMA2", {"prompts": {"system": "Be brief."}}, ModelError, "leave prompts.system empty"),
        ("QWEN3", {"prompts": {"keep_thinking": True}}, ConfigError, "drops the thinking of earlier turns"),
        (
            "QWEN3",
            {"model": {"name": "any", "template_args": {"enable_thinkng": False}}},
            ConfigError,
            "model.template_args has enable_thinkng",
        ),
    ],
)
def test_what_a_template_does_not_show_is_named(name, sections, error, expected) -> None:
    with pytest.raises(error, match=expected):
        check_prompts(config_of(**sections), QUESTIONS, tokenizer_with(getattr(templates, name)))


def test_a_system_message_of_one_question_is_looked_at() -> None:
    own = Question(question_id="own", domain="sums", question="Why?", system="Be brief.")
    with pytest.raises(ModelError, match=r"leave prompts\.system empty"):
        check_prompts(config_of(), [*QUESTIONS, own], tokenizer_with(templates.GEMMA2))


def test_thinking_is_kept_by_a_template_that_keeps_it() -> None:
    kept = config_of(prompts={"keep_thinking": True})
    assert check_prompts(kept, QUESTIONS, tokenizer_with(templates.CHATML)).teacher.count("reply number") == 2


def test_a_recipe_without_teacher_needs_no_earlier_turns() -> None:
    sampled = config_of(training={"objective": "self_certainty", "num_rollouts": 2})
    assert check_prompts(sampled, QUESTIONS, tokenizer_with(templates.LAST_TURN_ALONE))


def test_the_date_of_a_template_is_fixed() -> None:
    tokenizer = tokenizer_with(templates.LLAMA32)
    assert "Today Date: 01 Jan 2026" in example_prompts(config_of(), QUESTIONS, tokenizer).student
    given = config_of(model={"name": "any", "template_date": "2027-03-05"})
    assert "Today Date: 05 Mar 2027" in example_prompts(given, QUESTIONS, tokenizer).teacher


def test_parts_are_encoded_as_the_template_wants_them() -> None:
    messages = [{"role": "user", "content": "Say <|im_end|> twice."}]
    wanted, plain = (ChatEncoder(tokenizer_with(t)) for t in (templates.PARTS, templates.CHATML))
    assert wanted.encode(messages) == plain.encode(messages)


def test_rendering_is_what_is_encoded() -> None:
    encoder = ChatEncoder(tokenizer_with(templates.LLAMA32), date=date(2026, 2, 3))
    messages = [{"role": "user", "content": "Say <|im_end|> twice."}]
    assert encoder.decode(encoder.encode(messages)) == encoder.render(messages)


@pytest.mark.parametrize(("name", "is_refused"), [("QWEN3", True), ("CHATML", False)])
def test_exact_answers_of_a_model_that_thinks(name: str, is_refused: bool) -> None:
    config = config_of(evaluation={"exact": True}, prompts={"answer_format": "letter"})
    with pytest.raises(ConfigError, match="begin with thinking") if is_refused else nullcontext():
        check_exact(config, QUESTIONS, [], tokenizer_with(getattr(templates, name)))


def test_a_teacher_of_several_orders_needs_choices_to_move() -> None:
    config = config_of(training={"teacher_orders": 3}, prompts={"answer_format": "letter"})
    check_orders(config, QUESTIONS)
    bare = [dataclasses.replace(question, choices=()) for question in QUESTIONS]
    with pytest.raises(ConfigError, match="teacher_orders is 3, but none of the"):
        check_orders(config, bare)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"teacher_orders": 3}}, "prompts.answer_format is reasoned"),
        (
            {
                "training": {"teacher_entropy": "matched", "num_rollouts": 2},
                "contexts": {"retrieval": "own_group"},
            },
            "known only within its step",
        ),
    ],
)
def test_a_teacher_that_cannot_be_repaired_is_refused(sections: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(**sections)
