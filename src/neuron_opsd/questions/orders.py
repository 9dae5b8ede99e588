"""One question in several orders of its choices, and the way back from what each order was answered.

A model that answers by position gives another choice in another order. The mean over the cyclic orders, in which every
choice has every place once, takes the position out without a label. Nothing here knows a gold answer.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from neuron_opsd.records import Question
from neuron_opsd.text.answers import map_answer_back
from neuron_opsd.text.fixed_order import has_fixed_order

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """A question whose choices stand in another order.

    `choice_order[i]` is the original index of the i-th choice shown, as in `Rollout`.
    """

    question: Question  # with its choices as they are shown
    choice_order: tuple[int, ...]

    def to_original(self, letter: str | None) -> str | None:
        """The letter of the original order, of a letter of this one. None stays None."""
        return map_answer_back(letter, self.choice_order)

    def values_to_original(self, values: Sequence[T]) -> list[T]:
        """A value for each choice as shown -> a value for each choice in the original order."""
        return [values[place] for place in self.places()]

    def places(self) -> list[int]:
        """Where each choice of the original order stands in this one."""
        return [self.choice_order.index(i) for i in range(len(self.choice_order))]


def cyclic_orders(question: Question, k: int | None = None) -> list[Order]:
    """The question in k cyclic orders of its choices, the original first. By default in all of them.

    Fewer orders than choices are spread evenly. There are never more than choices. A question has one order where a
    choice points at others ("All of the above"), because moving it would change what it says, and where it has none.
    """
    size = len(question.choices)
    if size < 2 or has_fixed_order(question.choices):
        return [in_order(question, tuple(range(size)))]
    count = size if k is None else min(k, size)
    shifts = [size * turn // count for turn in range(count)]
    return [in_order(question, (*range(shift, size), *range(shift))) for shift in shifts]


def in_order(question: Question, choice_order: tuple[int, ...]) -> Order:
    """The question with its choices in this order, and what its file calls them."""
    moved = tuple(question.choices[i] for i in choice_order)
    letters = tuple(question.letters[i] for i in choice_order) if question.letters else ()
    return Order(dataclasses.replace(question, choices=moved, letters=letters), choice_order)
