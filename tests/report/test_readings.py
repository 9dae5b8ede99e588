"""The report's section on replies: unread ones by kind, with examples shortened visibly, and changed readings."""

import pytest

from neuron_opsd.config import PromptSettings
from neuron_opsd.records import Question, Rollout
from neuron_opsd.report.blocks import Paragraph, Table
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.readings import NUM_KINDS, read_stored, readings_section, shorten

PROMPTS = PromptSettings(answer_format="reasoned")
QUESTIONS = {
    "q": Question(question_id="q", domain="d", question="?", choices=("insulin", "glucagon", "cortisol"))
}


def stored(reply: str, answer: str | None, *, order: tuple[int, ...] = (0, 1, 2)) -> Rollout:
    return Rollout(
        question_id="q",
        rollout_index=0,
        choice_order=order,
        prompt_ids=(),
        completion_ids=(),
        token_log_probs=(),
        finish_reason="stop",
        reply=reply,
        answer=answer,
    )


def test_stored_answers_are_compared_in_the_original_order_of_the_choices() -> None:
    replies = [
        stored("The answer is A", "B", order=(1, 0, 2)),  # as it was
        stored("The answer is A", None),  # not read then
        stored("Nothing to say.", "C"),  # read then
    ]
    read = read_stored("rollouts", replies, QUESTIONS, PROMPTS)
    assert (read.num_replies, read.num_changed, read.kinds.total()) == (3, 2, 1)
    assert list(read.examples.values()) == ["Nothing to say."]
    today = read_stored("rollouts", replies, QUESTIONS, PROMPTS, is_read_today=True)
    assert (today.num_replies, today.num_changed) == (3, 1)  # what has an answer is not read again


def test_unread_replies_are_counted_by_kind_with_an_example() -> None:
    replies = [
        stored("The answer is A or C.", None),
        stored("The answer is A or B.", None),
        stored("", None),
        stored("The answer is C", "C"),
    ]
    blocks = readings_section(ReportInputs(replies=[read_stored("rollouts", replies, QUESTIONS, PROMPTS)]))
    said = [block.text for block in blocks if isinstance(block, Paragraph)]
    assert said[0] == "Replies that give no answer: 75.0% of 4 rollouts."
    assert "2 of 4 replies give more than one answer." in said[1]
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert table.rows == [
        ["several letters", "The answer is A or C.", "2", "50.0%"],
        ["empty", "(nothing)", "1", "25.0%"],
    ]


@pytest.mark.parametrize(
    ("is_trained_on", "said"), [(True, "they stay as they are"), (False, "evaluate RUN")]
)
def test_a_changed_reading_is_said_with_what_follows(is_trained_on: bool, said: str) -> None:
    read = read_stored(
        "samples", [stored("The answer is A", None)], QUESTIONS, PROMPTS, is_trained_on=is_trained_on
    )
    blocks = readings_section(ReportInputs(replies=[read]))
    (notice,) = (block for block in blocks if isinstance(block, Paragraph) and block.is_notice)
    assert "1 of 1 samples would be read otherwise today." in notice.text
    assert said in notice.text


def test_a_long_example_says_how_much_of_it_is_left_out() -> None:
    assert shorten("short\n  and on lines") == "short and on lines"
    long = shorten("a" * 100 + "b" * 100)
    assert long == "a" * 60 + " [… 80 characters …] " + "b" * 60


def test_without_replies_there_is_no_section() -> None:
    assert readings_section(ReportInputs()) == []
    assert NUM_KINDS == 10
