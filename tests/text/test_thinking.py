"""Thinking and answer told apart for every family's marks, cut or whole, opened by the model or by the template."""

import time

import pytest

from neuron_opsd.text.reading import read_answer
from neuron_opsd.text.thinking import MARKS, answer_offset, opened_by, strip_thinking

families = pytest.mark.parametrize(("opening", "closing"), MARKS, ids=[opening for opening, _ in MARKS])
CHOICES = ("one", "two", "three")


@families
def test_an_answer_is_what_follows_the_thinking(opening, closing):
    thought = f"{opening}Is the answer A? No.{closing}"
    for reply in (f"{thought}\n\nThe answer is B", f"{thought.removeprefix(opening)} The answer is B"):
        assert strip_thinking(reply) == "The answer is B"
        assert reply[answer_offset(reply) :].strip() == "The answer is B"
        assert read_answer(reply, choices=CHOICES).answer == "B"


@families
def test_thinking_that_was_cut_is_no_answer(opening, closing):
    for reply in (f"{opening}The answer is A, and", f"\n {opening}", f"x{closing}y{opening}z", f"x{closing}"):
        assert strip_thinking(reply) in ("", "y")
    assert read_answer(f"{opening}The answer is A, and", choices=CHOICES).answer is None
    assert answer_offset(f"{opening}The answer is A, and") == 0


@families
def test_what_a_prompt_leaves_open(opening, closing):
    assert opened_by(f"<|im_end|>\n<|im_start|>assistant\n{opening}\n") == opening
    assert opened_by(f"<|im_start|>assistant\n{opening}\n\n{closing}\n\n") == ""
    assert opened_by("<|im_start|>assistant\n") == ""


def test_several_blocks_and_none():
    assert strip_thinking("B") == "B"
    assert strip_thinking("<think>a</think>b<think>c</think>d") == "bd"
    assert strip_thinking("a < b and [THINKING] of <|channels|>") == "a < b and [THINKING] of <|channels|>"


def test_gpt_oss_turns_between_its_channels():
    reply = "<|channel|>analysis<|message|>Maybe A.assistant<|channel|>final<|message|>The answer is C"
    assert strip_thinking(reply) == "The answer is C"


@families
def test_thousands_of_marks_take_no_time(opening, closing):
    start = time.process_time()
    assert strip_thinking(opening * 8000) == ""
    assert strip_thinking(f"{closing}x" + f"{opening}y" * 8000).startswith("x")
    assert strip_thinking(f"{opening}y{closing}" * 8000 + "z") == "z"
    assert time.process_time() - start < 5
