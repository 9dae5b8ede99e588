import pytest

from neuron_opsd.records import Question
from neuron_opsd.rollouts.sample import choice_orders
from neuron_opsd.text.fixed_order import has_fixed_order


@pytest.mark.parametrize(
    "last",
    [
        *(
            "All of the above",
            "None of the above.",
            "none of these",
            "Both A and B",
            "A and B",
            "A & C",
            "A, B and C",
        ),
        *(
            "Both (a) and (b)",
            "Neither A nor B",
            "Any of the above",
            "None",
            "All are correct",
            "Same as B",
            "Only A",
        ),
        *(
            "A only",
            "Option B is wrong",
            "Both of the above",
            "All of these",
            "Not listed above",
            "None of them",
        ),
        *(
            "Two of the above",
            "Alle oben genannten",
            "Keine der obigen",
            "Todas las anteriores",
            "以上都是",
            "Both",
        ),
    ],
)
def test_a_choice_that_points_at_others_keeps_its_place(last):
    choices = ("insulin", "glucagon", "cortisol", last)
    assert has_fixed_order(choices)
    question = Question(question_id="q", domain="d", question="Which?", choices=choices)
    orders = choice_orders(question, 8, shuffle=True, seed=0, stage="rollouts")
    assert set(orders) == {(0, 1, 2, 3)}


@pytest.mark.parametrize(
    "last",
    [
        *(
            "A fever",
            "hepatitis B",
            "vitamin D",
            "all cells",
            "both kidneys",
            "none too soon",
            "a and a half litres",
        ),
        *(
            "E. coli",
            "a cat or a dog",
            "above the knee",
            "The above-ground part",
            "I and II",
            "insulin and glucagon",
        ),
    ],
)
def test_other_choices_may_move(last):
    choices = ("insulin", "glucagon", "cortisol", last)
    assert not has_fixed_order(choices)
    question = Question(question_id="q", domain="d", question="Which?", choices=choices)
    assert len(set(choice_orders(question, 8, shuffle=True, seed=0, stage="rollouts"))) > 1
