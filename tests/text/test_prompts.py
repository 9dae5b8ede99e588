"""The wording: what a question becomes, for student and teacher."""

import pytest

from neuron_opsd.records import Demonstration, Question
from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.prompts import question_text, student_messages, teacher_messages

QUESTION = Question(question_id="q", domain="d", question="Which {city}?", choices=("Paris", "Rome", "Oslo"))
OTHER = Question(question_id="o", domain="d", question="What?", choices=("yes", "no"))
FREE = Question(question_id="f", domain="d", question="How many?")
SHOWN = Demonstration(
    question_id="o", choice_order=(1, 0), reply="<think>Hm.</think>The answer is A", distance=0.1
)


def test_choices_are_shown_in_the_order_given():
    text = question_text(QUESTION, choice_order=(2, 0, 1), answer_format="letter")
    assert text.splitlines()[:4] == ["Which {city}?", "A. Oslo", "B. Paris", "C. Rome"]
    assert text.splitlines()[4] == "Answer with the letter of the correct choice only."


def test_choice_text_shows_no_letters():
    lines = question_text(QUESTION, choice_order=(0, 1, 2), answer_format="choice_text").splitlines()
    assert lines[1:4] == ["- Paris", "- Rome", "- Oslo"]


def test_free_form_shows_neither_choices_nor_letters():
    assert question_text(FREE, choice_order=(), answer_format="letter") == "How many?"
    assert question_text(FREE, choice_order=(), answer_format="reasoned").startswith(
        "How many?\nThink briefly"
    )
    assert question_text(QUESTION, choice_order=(0, 1, 2), answer_format="free") == "Which {city}?"


def test_no_choice_is_lost_silently():
    many = Question(
        question_id="m", domain="d", question="?", choices=tuple(f"choice {i}" for i in range(26))
    )
    text = question_text(many, choice_order=tuple(range(26)), answer_format="letter")
    assert all(f"{LETTERS[i]}. choice {i}" in text for i in range(26))


def test_student_reads_the_bare_question():
    messages = student_messages(QUESTION, choice_order=(0, 1, 2), answer_format="letter")
    assert [message["role"] for message in messages] == ["user"]


@pytest.mark.parametrize(
    ("own", "setting", "expected"), [("own", "set", "own"), (None, "set", "set"), (None, None, None)]
)
def test_the_questions_own_system_message_wins(own, setting, expected):
    question = Question(question_id="q", domain="d", question="?", system=own)
    messages = student_messages(question, choice_order=(), answer_format="free", system=setting)
    assert [m["content"] for m in messages if m["role"] == "system"] == ([expected] if expected else [])


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_teacher_messages_end_with_the_students(system):
    options = {"choice_order": (1, 2, 0), "answer_format": "reasoned", "system": system}
    student = student_messages(QUESTION, **options)
    teacher = teacher_messages(QUESTION, [(OTHER, SHOWN)], **options)
    first = 1 if system else 0
    assert teacher[:first] == student[:first]
    assert teacher[first + 2 :] == student[first:]
    assert [m["role"] for m in teacher[first : first + 2]] == ["user", "assistant"]


def test_demonstration_is_shown_as_its_rollout_saw_it():
    asked, reply, _ = teacher_messages(
        QUESTION, [(OTHER, SHOWN)], choice_order=(0, 1, 2), answer_format="letter"
    )
    assert asked["content"].splitlines()[:3] == ["What?", "A. no", "B. yes"]
    assert reply["content"] == "The answer is A"


def test_thinking_is_kept_when_asked():
    messages = teacher_messages(
        QUESTION, [(OTHER, SHOWN)], choice_order=(0, 1, 2), answer_format="letter", keep_thinking=True
    )
    assert messages[1]["content"] == SHOWN.reply
