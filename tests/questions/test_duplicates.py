import time
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_opsd.questions.duplicates import near_duplicates, template_key
from neuron_opsd.questions.load import content_id
from neuron_opsd.records import Question


def ask(question: str, *choices: str) -> Question:
    return Question(question_id="q", domain="d", question=question, choices=choices)


def grams(text: str) -> set[str]:
    return {text[k : k + 5] for k in range(len(text) - 4)} or {text}


def jaccard(one: str, other: str) -> float:
    return float(Fraction(len(grams(one) & grams(other)), len(grams(one) | grams(other))))


def by_hand(questions: list[Question], threshold: float) -> list[tuple[int, int]]:
    """The definition, pair by pair."""
    asked = [" ".join(question.question.split()) for question in questions]
    offered = ["\n".join(sorted(" ".join(c.split()) for c in question.choices)) for question in questions]
    return [
        (i, j)
        for i, j in combinations(range(len(questions)), 2)
        if jaccard(asked[i], asked[j]) >= threshold and jaccard(offered[i], offered[j]) >= threshold
    ]


def test_content_id_is_pinned():
    assert content_id("Is water wet?", ["yes", "no"]) == PINNED_ID


def test_content_ignores_order_of_choices_white_space_and_composition():
    base = content_id("Is café wet?", ["yes", "no"])
    assert content_id(" Is  cafe\u0301\nwet? ", ["no", "yes "]) == base
    assert len(base) == 16


@pytest.mark.parametrize(
    ("question", "choices"),
    [("is water wet?", ["yes", "no"]), ("Is water wet?", ["yes"]), ("Is water wet?", ["ye", "sno"])],
)
def test_content_keeps_case_and_the_bounds_of_choices(question, choices):
    assert content_id(question, choices) != content_id("Is water wet?", ["yes", "no"])


def test_jaccard_by_hand():
    # abcdefgh has 4 grams, abcdefgX shares 3 of them: 3 / 5.
    questions = [ask("abcdefgh"), ask("abcdefgX")]
    assert near_duplicates(questions, threshold=0.6) == [(0, 1)]
    assert near_duplicates(questions, threshold=0.61) == []


def test_both_question_and_choices_must_be_alike():
    long = "Which of the following protein mutants shows the higher activity in the assay described above?"
    questions = [ask(long, "MSIQHFRVAL", "MSIQHFRKAL"), ask(long, "GGGGGAAAAA", "TTTTTSSSSS")]
    assert near_duplicates(questions, threshold=0.95) == []
    same_choices = [
        ask("Does the comment explain itself? " + tail, "Yes", "No") for tail in ("Good!", "Why so?")
    ]
    assert near_duplicates(same_choices, threshold=0.95) == []


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("ab ", max_size=12), st.lists(st.text("xyz", max_size=7), max_size=3)), max_size=7
    ),
    st.sampled_from([0.05, 0.07, 0.2, 0.5, 0.8, 0.95, 1.0]),
)
def test_equals_the_definition(items, threshold):
    questions = [ask(question, *choices) for question, choices in items]
    assert near_duplicates(questions, threshold=threshold) == by_hand(questions, threshold)


def test_two_thousand_templated_questions_take_seconds():
    template = (
        "Based on the given data, determine which material is most favourable for the stability of "
        "perovskite materials. The stability can be predicted by the properties of the elements. Choose one. "
    ) * 3
    questions = [ask(f"{template} Density: {k * 7919 % 10007}", f"Sr{k}Ni", f"Sr{k}Co") for k in range(2000)]
    questions.append(ask(f"{template} Density: 0", "Sr0Ni", "Sr0Co"))
    start = time.process_time()
    assert near_duplicates(questions, threshold=0.95) == [(0, 2000)]
    assert time.process_time() - start < 20  # about 2 seconds here


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "What is the molar weight (g/mol) of the molecule with the SMILES 'CC(=O)CN'?",
            "What is the molar weight (g/mol) of the molecule with the SMILES 'c1ccccc1 O'?",
        ),
        (
            "For the material In₂HgSe₄ (Material ID: mp-20731), calculate the volume of the unit cell.",
            "For the material NaSr(PO3)3 (Material ID: mp-1020657), calculate the volume of the unit cell.",
        ),
        (
            "A gas at a pressure of 18 atm and a temperature of 528 K expands.",
            "A gas at a pressure of 3.5 atm and a temperature of 1,020 K expands.",
        ),
        (
            'With the protein "MQYKLILNGKTLKGETTTEA" what is the score?',
            "With the protein MQYKLILNGKTLKGETTTEAKLMNPQRSTV what is the score?",
        ),
    ],
)
def test_questions_of_one_template_share_their_key(one, other):
    assert template_key(one) == template_key(other)


def test_other_openings_have_other_keys():
    one = template_key("What is the number of hydrogen bond donors in 'CCO'?")
    assert one == "what is the number of hydrogen bond donors"
    assert template_key("What is the number of rotatable bonds in 'CCO'?") != one
    assert template_key("") == ""


PINNED_ID = "e2846c9f5d728ab1"  # printf '["Is water wet?", ["no", "yes"]]' | sha256sum | cut -c1-16
