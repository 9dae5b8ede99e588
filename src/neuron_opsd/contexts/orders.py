"""What the teacher reads in each order of a question's choices (`training.teacher_orders`)."""

from collections.abc import Sequence
from functools import cached_property

from neuron_opsd.contexts.prompts import both_messages
from neuron_opsd.model.letter_tokens import letter_tokens, spellings
from neuron_opsd.model.order_average import OrderView
from neuron_opsd.questions.orders import Order, cyclic_orders, in_order
from neuron_opsd.records import Demonstration
from neuron_opsd.run.session import Run
from neuron_opsd.text.answers import LETTERS


class TeacherOrders:
    """The orders in which one run's teacher reads a question, the student's own first."""

    def __init__(self, run: Run) -> None:
        self.run, self.count = run, run.config.training.teacher_orders

    def turned(self, question_id: str, choice_order: tuple[int, ...]) -> list[Order]:
        """The question as the student reads it, turned. Of each, `choice_order` is relative to the student's."""
        shown = in_order(self.run.records.pool_by_id[question_id], choice_order).question
        return cyclic_orders(shown, self.count)

    def views(
        self,
        question_id: str,
        choice_order: tuple[int, ...],
        demonstrations: Sequence[Demonstration] | None = None,
    ) -> tuple[OrderView, ...]:
        """The teacher's prompt in each order, and its letters. Empty where the teacher reads the student's alone."""
        if self.count == 1:
            return ()
        encoder = self.run.models.encoder(teacher=True)
        views: list[OrderView] = []
        for order in self.turned(question_id, choice_order):
            moved = tuple(choice_order[i] for i in order.choice_order)
            messages = both_messages(self.run, question_id, moved, demonstrations)[1]
            views.append(OrderView(tuple(encoder.encode(messages)), self._renamed(order)))
        return tuple(views)

    def _renamed(self, order: Order) -> dict[int, int]:
        """Each letter token of the student's order -> the letter of the same choice in this one, spelt alike."""
        if self.run.config.prompts.answer_format != "letter":
            return {}
        places = order.places()
        own, there = LETTERS[: len(places)], [LETTERS[place] for place in places]
        return {
            row[letter]: row[other]
            for row in self._spellings
            if all(letter in row for letter in own)
            for letter, other in zip(own, there, strict=True)
        }

    @cached_property
    def _spellings(self) -> list[dict[str, int]]:
        return spellings(letter_tokens(self.run.models.encoder().tokenizer))
