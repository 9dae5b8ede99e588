"""What the questions browser is given: prompts by their parts, replies within the page's size."""

import base64
import json
import random
import zlib
from dataclasses import replace

import pytest
from made_up_run import made_up_run

from neuron_opsd.report import browser
from neuron_opsd.report.browser import questions_browser
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.text.prompts import student_messages, teacher_messages


@pytest.fixture(scope="module")
def run():
    return made_up_run(num_test=12)


def unpacked(inputs):
    return json.loads(zlib.decompress(base64.b64decode(questions_browser(inputs).data)))


def assembled(data, name):
    """The teacher's turns as page.js puts them together."""
    rows = {row["id"]: row for row in data["questions"]}
    row, turns = rows[name], []
    for other, _, *own in row["neighbours"]:
        shown = rows[other].get("shown") or rows[other]["replies"][0]
        turns += own[:2] if own else [rows[other]["prompt"], shown[0]]
    return [*turns, row["prompt"]]


def test_prompts_are_those_of_the_one_function(run):
    """With thinking in replies, another order of choices in one demonstration, and a reply that was edited."""
    thought = "<think>hm</think>So the answer is B."
    rollouts = [replace(r, reply=thought) if r.question_id == "pool-0001" else r for r in run.rollouts]
    context = run.contexts[0]
    first, second, third = context.demonstrations
    demonstrations = (
        replace(first, choice_order=(3, 2, 1, 0)),
        replace(second, reply=thought),
        replace(third, reply="Another reply. The answer is C."),
    )
    inputs = replace(run, rollouts=rollouts, contexts=[replace(context, demonstrations=demonstrations)])
    questions = {question.question_id: question for question in run.questions}
    question = questions[context.question_id]
    wanted = teacher_messages(
        question,
        [(questions[shown.question_id], shown) for shown in demonstrations],
        choice_order=(0, 1, 2, 3),
        answer_format="reasoned",
    )
    data = unpacked(inputs)
    turns = [message["content"] for message in wanted if message["role"] != "system"]
    assert assembled(data, context.question_id) == turns
    row = next(row for row in data["questions"] if row["id"] == context.question_id)
    assert [len(entry) for entry in row["neighbours"]] == [5, 2, 5]  # the second is as its own row says
    student = student_messages(question, choice_order=(0, 1, 2, 3), answer_format="reasoned")
    assert row["prompt"] == student[-1]["content"]


def test_every_question_is_there_with_its_system_message(run):
    rows = unpacked(run)["questions"]
    assert {row["id"] for row in rows} == {question.question_id for question in run.questions}
    assert [row["selected"] for row in rows[:9]] == [True] * 8 + [False]
    assert {row.get("system") for row in rows} == {None, "Be brief."}


def test_replies_are_shortened_until_the_page_is_small_enough(run, monkeypatch):
    generator = random.Random(0)
    noise = ["".join(chr(generator.randrange(0x4E00, 0x9FFF)) for _ in range(4000)) for _ in run.rollouts]
    inputs = replace(run, rollouts=[replace(r, reply=t) for r, t in zip(run.rollouts, noise, strict=True)])
    whole = len(questions_browser(inputs).data)
    monkeypatch.setattr(browser, "MAX_PACKED", whole // 3)
    made = questions_browser(inputs)
    assert len(made.data) <= whole // 3
    assert "up to 1,000 characters" in made.note[0]
    row = json.loads(zlib.decompress(base64.b64decode(made.data)))["questions"][0]
    assert row["replies"][0][0] in noise[int(row["id"][-4:])]
    assert (len(row["replies"][0][0]), row["replies"][0][1]) == (1000, 3000)


def test_a_neighbour_that_is_not_among_the_questions(run):
    inputs = ReportInputs(questions=run.questions[-3:], contexts=run.contexts)
    assert len(unpacked(inputs)["questions"]) == 3
    lonely = [q for q in run.questions if q.question_id == run.contexts[0].question_id]
    rows = unpacked(ReportInputs(questions=lonely, contexts=run.contexts))["questions"]
    assert [len(entry) for entry in rows[0]["neighbours"]] == [2, 2, 2]
