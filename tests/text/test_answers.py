"""Answers read out of replies, compared and voted on: hand cases."""

import pytest

from neuron_opsd.text.answers import (
    Vote,
    answers_match,
    majority_answer,
    normalise_answer,
)
from neuron_opsd.text.reading import read_answer

CITIES = ("Paris", "London", "New York", "York")
VITAMINS = ("Vitamin A", "Vitamin B", "Vitamin C", "Vitamin D")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("The answer is B", "B"),
        ("The answer is B.", "B"),
        ("the answer is (C).", "C"),
        ("**Answer:** D", "D"),
        ("Answer: **B**", "B"),
        ("Final answer: C", "C"),
        ("The correct option is A: Paris", "A"),
        ("The correct answer is option D.", "D"),
        ("The answer is A. No, wait: the answer is C.", "C"),  # the last one wins
        ("Option A is Paris. So the answer is B", "B"),
        (r"So \boxed{C}", "C"),
        (r"\boxed{A} ... \boxed{\text{D}}", "D"),
        (r"The answer is B, \boxed{A}", "A"),
        (r"\boxed{London}", "B"),
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B) London", "B"),
        ("A, because it is the capital", "A"),
        ("C\nIt is in America", "C"),
        ("London", "B"),
        ("It must be london!", "B"),
        ("The answer is Paris", "A"),
        ("New York", "C"),  # of nested choices, the longest
        ("York", "D"),
        ("The answer is E", None),  # beyond the choices: never clipped
        ("E.", None),
        ("Paris or London", None),
        ("I do not know", None),
        ("", None),
        ("   \n", None),
        ("Berlin", None),
        ("A big city, I think", None),  # an article is no letter
        ("<think>The answer is A.</think>The answer is B", "B"),
        ("The answer is A.</think> B", "B"),
        ("<think>The answer is A, and", None),
    ],
)
def test_multiple_choice(reply, expected):
    assert read_answer(reply, choices=CITIES).answer == expected


@pytest.mark.parametrize("letter", "ABCD")
def test_the_letter_of_a_name_is_no_article(letter):
    """Read without its A, "Vitamin A" would be "Vitamin", which every other vitamin contains."""
    assert read_answer(f"Vitamin {letter}", choices=VITAMINS, answer_format="choice_text").answer == letter
    assert (
        read_answer(f"vitamin {letter.lower()}.", choices=VITAMINS, answer_format="choice_text").answer
        == letter
    )
    assert read_answer(f"It is vitamin {letter} deficiency", choices=VITAMINS).answer == letter
    assert read_answer("Vitamin K", choices=VITAMINS).answer is None


def test_choice_text_is_read_as_text_before_letters():
    bacteria = ("E. coli", "S. aureus", "A. baumannii", "C. difficile")
    for i, choice in enumerate(bacteria):
        assert read_answer(choice, choices=bacteria, answer_format="choice_text").answer == "ABCD"[i]
    groups = ("B", "A", "AB", "O")
    assert read_answer("A", choices=groups, answer_format="choice_text").answer == "B"
    assert read_answer("A", choices=groups, answer_format="letter").answer == "A"


def test_more_choices_than_four():
    assert read_answer("The answer is H", choices=[str(i) for i in range(8)]).answer == "H"
    assert read_answer("The answer is H", choices=[str(i) for i in range(7)]).answer is None


@pytest.mark.parametrize(
    ("reply", "answer_format", "expected"),
    [
        (r"So \boxed{42}.", "reasoned", "42"),
        (r"\boxed{\frac{1}{2}}", "reasoned", normalise_answer(r"\frac{1}{2}")),
        ("6 times 7 is 42. The answer is 42.", "reasoned", "42"),
        ("The answer is 1,200.50", "reasoned", "1200.5"),
        ("The answer is the Mitochondrion.", "reasoned", "mitochondrion"),
        ("First 6, then 7, so 42 apples", "reasoned", "42"),
        ("No idea", "reasoned", None),
        ("Mitochondrion\nIt makes ATP", "free", "mitochondrion"),
    ],
)
def test_free_form(reply, answer_format, expected):
    assert read_answer(reply, choices=(), answer_format=answer_format).answer == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat.", "cat"),
        ("a cat", "cat"),
        ("A cat", "cat"),
        ("hepatitis A", "hepatitis a"),
        ("1,000", "1000"),
        ("+3.50", "3.5"),
        ("-0", "0"),
        ("-0.0", "0"),
        (".5", "0.5"),
        ("007", "7"),
        ("$12.00", "12"),
        ("95%", "95"),
        ("ﬁve", "five"),
        ("x = 3.5", "x = 3.5"),
        ("  many   spaces ", "many spaces"),
    ],
)
def test_normalised(text, expected):
    assert normalise_answer(text) == expected
    assert normalise_answer(expected) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("9", "9 apples", True),
        ("9 apples", "9", True),
        ("9", "9 of 10", False),
        ("9", "8", False),
        ("cat", "cat", True),
        ("cat", "dog", False),
        (None, None, False),
        (None, "A", False),
        ("9 apples", "9 pears", False),
        ("1.50 m", "1.5 m", True),
        ("5cm", "5 cm", True),
        ("5 cm", "5 km", False),
        ("5 cm", "6 cm", False),
        (normalise_answer("1,000 km"), "1000 km", True),
        ("3 of 10", "3 of 12", False),
    ],
)
def test_matching(first, second, expected):
    assert answers_match(first, second) is expected
    assert answers_match(second, first) is expected


def test_majority_and_ties():
    assert majority_answer(["A", "B", "B"], skip_unparsable=True) == Vote("B", 2, 3)
    assert majority_answer(["C", "B", "B", "C"], skip_unparsable=True).answer == "C"  # tied: the first given
    assert majority_answer(["B", "C", "C", "B"], skip_unparsable=True).answer == "B"


def test_unparsable_votes_stay_in_the_total():
    answers = [None, None, "A", None]
    assert majority_answer(answers, skip_unparsable=True) == Vote("A", 1, 4)
    assert majority_answer(answers, skip_unparsable=True).share == 0.25
    assert majority_answer(answers, skip_unparsable=False) == Vote(None, 3, 4)
    assert majority_answer([None], skip_unparsable=True) == Vote(None, 0, 1)
    assert majority_answer([], skip_unparsable=True).share == 0
