"""Orders of a question's choices, by hand."""

from neuron_opsd.questions.orders import cyclic_orders
from neuron_opsd.records import Question


def a_question(*choices: str, letters: tuple[str, ...] = ()) -> Question:
    return Question(question_id="q", domain="d", question="Which?", choices=choices, letters=letters)


def test_each_choice_has_each_place_once() -> None:
    orders = cyclic_orders(a_question("red", "green", "blue", letters=("1", "2", "4")))
    assert [order.choice_order for order in orders] == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    assert [order.question.choices for order in orders] == [
        ("red", "green", "blue"),
        ("green", "blue", "red"),
        ("blue", "red", "green"),
    ]
    assert orders[1].question.letters == ("2", "4", "1")


def test_the_way_back() -> None:
    order = cyclic_orders(a_question("red", "green", "blue"))[1]  # shows green, blue, red
    assert [order.to_original(letter) for letter in ("A", "B", "C", None)] == ["B", "C", "A", None]
    assert order.places() == [2, 0, 1]  # red is third, green first, blue second
    assert order.values_to_original([0.5, 0.3, 0.2]) == [0.2, 0.5, 0.3]


def test_fewer_orders_are_spread_evenly_and_more_do_not_exist() -> None:
    four = a_question("a1", "b1", "c1", "d1")
    assert [order.choice_order[0] for order in cyclic_orders(four, 2)] == [0, 2]
    assert len(cyclic_orders(four, 8)) == 4


def test_choices_that_point_at_others_do_not_move() -> None:
    for question in (a_question("red", "green", "all of the above"), a_question()):
        assert [order.question for order in cyclic_orders(question)] == [question]
