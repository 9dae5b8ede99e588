"""What only the teacher reads: demonstrations, their order, and the token budget."""

import pytest

from neuron_opsd.config import ContextSettings, PromptSettings
from neuron_opsd.contexts.build import build_contexts, context_messages
from neuron_opsd.contexts.neighbours import can_demonstrate, random_neighbours
from neuron_opsd.errors import DataError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.records import Question, Rollout

NAMES = ("near", "mid", "far")
QUESTIONS = {
    name: Question(question_id=name, domain="d", question=f"What of {name}?", choices=("yes", "no"))
    for name in ("q", *NAMES)
}
NEIGHBOURS = {"q": [("near", 0.1), ("mid", 0.5), ("far", 0.9)]}
PROMPTS = PromptSettings(answer_format="letter")


def rollout(name: str, reply: str = "A", order: tuple[int, ...] = (1, 0)) -> Rollout:
    return Rollout(
        question_id=name,
        rollout_index=0,
        choice_order=order,
        prompt_ids=(1,),
        completion_ids=(2,),
        token_log_probs=(0.0,),
        finish_reason="stop",
        reply=reply,
        answer="B",
    )


ROLLOUTS = {name: rollout(name) for name in NAMES}


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    return ChatEncoder(tiny_tokenizer)


def build(encoder, budget: int, **options):
    settings = ContextSettings(max_prompt_tokens=budget, **options)
    (context,) = build_contexts(
        ["q"], NEIGHBOURS, QUESTIONS, ROLLOUTS, encoder, settings=settings, prompts=PROMPTS
    )
    return context, settings


def teacher_messages(context, settings) -> list:
    return context_messages(
        QUESTIONS["q"],
        context.demonstrations,
        QUESTIONS,
        choice_order=(0, 1),
        settings=settings,
        prompts=PROMPTS,
    )


def num_tokens(encoder, context, settings) -> int:
    return len(encoder.encode(teacher_messages(context, settings)))


def test_everything_fits(encoder):
    context, settings = build(encoder, 10_000)
    assert [d.question_id for d in context.demonstrations] == ["near", "mid", "far"]
    assert [d.distance for d in context.demonstrations] == [0.1, 0.5, 0.9]
    assert context.num_demonstrations_dropped == 0
    assert context.num_teacher_prompt_tokens == num_tokens(encoder, context, settings)
    assert context.num_student_prompt_tokens < context.num_teacher_prompt_tokens
    assert all(d.choice_order == (1, 0) and d.reply == "A" for d in context.demonstrations)


def test_the_farthest_is_dropped_first_and_counted(encoder):
    whole = build(encoder, 10_000)[0].num_teacher_prompt_tokens
    assert build(encoder, whole)[0].num_demonstrations_dropped == 0  # the budget itself still fits
    budget = whole - 1
    for expected in (["near", "mid"], ["near"], []):
        context, settings = build(encoder, budget)
        assert [d.question_id for d in context.demonstrations] == expected
        assert context.num_demonstrations_dropped == 3 - len(expected)
        assert context.num_teacher_prompt_tokens == num_tokens(encoder, context, settings) <= budget
        budget = context.num_teacher_prompt_tokens - 1
    with pytest.raises(DataError, match=r"Question q alone takes \d+ tokens.*max_prompt_tokens="):
        build(encoder, budget)


@pytest.mark.parametrize("order", ["nearest_first", "nearest_last"])
def test_order_of_reading_changes_neither_the_record_nor_who_is_dropped(encoder, order):
    whole = build(encoder, 10_000)[0].num_teacher_prompt_tokens
    context, settings = build(encoder, whole - 1, order=order)
    assert [d.question_id for d in context.demonstrations] == ["near", "mid"]
    messages = teacher_messages(context, settings)
    read = [m["content"].split("?")[0].removeprefix("What of ") for m in messages if m["role"] == "user"]
    assert read == (["near", "mid", "q"] if order == "nearest_first" else ["mid", "near", "q"])


def test_without_neighbours_the_teacher_reads_what_the_student_reads(encoder):
    (context,) = build_contexts(
        ["q"], {"q": []}, QUESTIONS, {}, encoder, settings=ContextSettings(), prompts=PROMPTS
    )
    assert context.num_teacher_prompt_tokens == context.num_student_prompt_tokens
    assert context.num_demonstrations_dropped == 0


def test_contexts_come_in_the_order_asked(encoder):
    neighbours = {name: [] for name in QUESTIONS}
    found = build_contexts(
        ["far", "q", "near"], neighbours, QUESTIONS, {}, encoder, settings=ContextSettings(), prompts=PROMPTS
    )
    assert [context.question_id for context in found] == ["far", "q", "near"]


def test_random_neighbours_are_never_the_question_or_excluded_and_depend_on_the_seed_alone():
    pool = [f"q{i}" for i in range(20)]
    options = {"is_excluded": lambda question, other: other == "q3"}
    drawn = random_neighbours(pool, pool, 5, seed=1, **options)
    for question, neighbours in drawn.items():
        names = [name for name, _ in neighbours]
        assert len(set(names)) == 5
        assert question not in names
        assert "q3" not in names
        assert all(distance == 1.0 for _, distance in neighbours)
    assert random_neighbours(pool[::-1], pool[::-1], 5, seed=1, **options) == drawn
    assert random_neighbours(["q7"], pool, 5, seed=1, **options)["q7"] == drawn["q7"]
    assert random_neighbours(pool, pool, 5, seed=2, **options) != drawn
    assert len(random_neighbours(["q0"], pool[:3], 5, seed=1, **options)["q0"]) == 2


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", True),
        ("  ", False),
        ("<think>long, cut", False),  # shown with its thinking, it would leave the block open
        ("<think>x</think> ", False),
        ("<think>x</think>B", True),
    ],
)
def test_a_reply_that_is_all_thinking_demonstrates_nothing(reply, expected):
    assert can_demonstrate(reply) is expected
