"""What training reads: both prompts of every place of the schedule, and the answers in the student's completions."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

from neuron_opsd.contexts.neighbours import can_demonstrate
from neuron_opsd.contexts.orders import TeacherOrders
from neuron_opsd.contexts.prompts import both_messages
from neuron_opsd.errors import DataError
from neuron_opsd.model.order_average import OrderView
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Demonstration, Rollout
from neuron_opsd.rollouts.pseudo_label import vote
from neuron_opsd.rollouts.sample import choice_orders
from neuron_opsd.run.session import Run
from neuron_opsd.text.answers import Vote
from neuron_opsd.text.replies import read_reply
from neuron_opsd.training.items import LazyItems, TrainingItem, is_settled
from neuron_opsd.training.schedule import question_order

logger = logging.getLogger(__name__)


class TrainingPrompts:
    """The prompts of one run's training. No model is loaded for them."""

    def __init__(self, run: Run) -> None:
        self.run, self.orders = run, TeacherOrders(run)

    def items(self, num_items: int) -> LazyItems:
        """The schedule, a place for each completion: both prompts, the choices in the same order for both roles."""
        num_rollouts = self.run.config.training.num_rollouts
        # Without a contexts stage, the teacher's context is empty or is built during training.
        has_contexts = "contexts" in self.run.inputs.made
        order = question_order(
            self.run.records.training_ids(), num_items // num_rollouts, seed=self.run.config.seed
        )

        @lru_cache(maxsize=64)  # the completions of one question follow one another
        def prompts(group: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[OrderView, ...], int]:
            choices, shown = self.choices(order[group], group), None if has_contexts else ()
            student, teacher = both_messages(self.run, order[group], choices, shown)
            return (
                tuple(self.run.models.encoder().encode(student)),
                tuple(self.run.models.encoder(teacher=True).encode(teacher)),
                self.orders.views(order[group], choices, shown),
                self.run.models.encoder(teacher=True).num_before_last(teacher),
            )

        def make_item(index: int) -> TrainingItem:
            question_id, (student, teacher, views, context_tokens) = (
                order[index // num_rollouts],
                prompts(index // num_rollouts),
            )
            return TrainingItem(
                question_id=question_id,
                student_ids=student,
                teacher_ids=teacher,
                views=views,
                context_tokens=context_tokens,
                seed=derive_seed(self.run.config.seed, "training", question_id, index),
            )

        return LazyItems(num_items, make_item)

    def group_prompt(self, item: TrainingItem, completion_ids: Sequence[int]) -> tuple[int, ...] | None:
        """The teacher's prompt with one completion of the item's own group. None if it is empty, or does not fit."""
        choices = self.choices(item.question_id, item.place // self.run.config.training.num_rollouts)
        reply = self.run.models.encoder().decode_reply(completion_ids)
        shown = Demonstration(question_id=item.question_id, choice_order=choices, reply=reply, distance=0.0)
        if not can_demonstrate(reply):
            return None
        ids = self.run.models.encoder(teacher=True).encode(
            both_messages(self.run, item.question_id, choices, [shown])[1]
        )
        return tuple(ids) if len(ids) <= self.run.inputs.context_settings.max_prompt_tokens else None

    def held_out(self, count: int, *, max_tokens: int | None) -> tuple[int, list[tuple[int, ...]]]:
        """The bare prompts of up to `count` pool questions, drawn by seed, and how many of them training did not use.

        Those that training did not use come first. Prompts of more than `max_tokens` are left out.
        """
        used = set(self.run.records.training_ids())
        drawn = sorted(
            (question.question_id for question in self.run.records.pool),
            key=lambda name: (name in used, derive_seed(self.run.config.seed, "publish", name)),
        )
        orders = ((name, tuple(range(len(self.run.records.pool_by_id[name].choices)))) for name in drawn)
        prompts = (
            (name, tuple(self.run.models.encoder().encode(both_messages(self.run, name, order, ())[0])))
            for name, order in orders
        )
        fitting = ((name, ids) for name, ids in prompts if max_tokens is None or len(ids) <= max_tokens)
        kept = list(islice(fitting, count))
        return sum(name not in used for name, _ in kept), [ids for _, ids in kept]

    def longest(self) -> tuple[int, int]:
        """Tokens of the selection's longest student prompt, and of its longest teacher prompt."""
        if "contexts" not in self.run.inputs.made:
            return self._longest_without_contexts()
        contexts = [self.run.records.context(question_id) for question_id in self.run.records.training_ids()]
        return (
            max(context.num_student_prompt_tokens for context in contexts),
            max(context.num_teacher_prompt_tokens for context in contexts),
        )

    def _longest_without_contexts(self) -> tuple[int, int]:
        """The teacher reads the question too. Where it reads an answer of the group, the question twice."""
        choices = {
            name: tuple(range(len(self.run.records.pool_by_id[name].choices)))
            for name in self.run.records.training_ids()
        }
        longest = max(
            len(self.run.models.encoder().encode(both_messages(self.run, name, order, ())[0]))
            for name, order in choices.items()
        )
        if self.run.config.contexts.retrieval != "own_group" or not self.run.config.training.is_distillation:
            return longest, longest
        whole = 2 * longest + self.run.config.training.max_new_tokens
        return longest, min(whole, self.run.inputs.context_settings.max_prompt_tokens)

    def choices(self, question_id: str, group: int) -> tuple[int, ...]:
        """The order of the choices for the completions of one group of the schedule."""
        return choice_orders(
            self.run.records.pool_by_id[question_id],
            1,
            shuffle=self.run.config.rollouts.shuffle_choices,
            seed=self.run.config.seed,
            stage=f"training {group}",
        )[0]

    def read_answer(self, item: TrainingItem) -> str | None:
        """The answer in a completion of training, by the rules of the rollouts: for votes, never for a loss."""
        return read_reply(
            self.run.models.encoder().decode_reply(item.completion_ids),
            choices=self.run.records.pool_by_id[item.question_id].choices,
            choice_order=self.choices(item.question_id, item.place // self.run.config.training.num_rollouts),
            prompts=self.run.config.prompts,
            finish_reason=item.finish_reason,
        ).answer

    def pseudo_labels(self) -> dict[str, Vote]:
        """The majority answer of each question's rollouts, of the questions that training uses.

        Raises:
            DataError: no rollout of these questions could be read.
        """
        kept = set(self.run.records.training_ids())
        rollouts = self.run.folder.stage("rollouts").iterate(Rollout)
        found = vote(rollout for rollout in rollouts if rollout.question_id in kept)
        num_labelled = sum(is_settled(each, self.run.config.training) for each in found.values())
        if not num_labelled:
            raise DataError(
                f"training.distil is agreeing, but none of the {len(kept)} questions that training uses has a majority "
                f"answer of at least training.min_vote_share={self.run.config.training.min_vote_share:g}. Lower it, "
                "look at the replies in RUN/rollouts/records.jsonl, or use training.distil=all."
            )
        logger.info("training: %d of %d questions have a pseudo-label to agree with", num_labelled, len(kept))
        return found

    def log_first(self, item: TrainingItem) -> None:
        """At step 0: one student prompt, teacher prompt and completion as they are."""
        encoder = self.run.models.encoder()
        for name, ids in (
            ("student prompt", item.student_ids),
            ("teacher prompt", item.teacher_ids),
            ("completion", item.completion_ids),
        ):
            logger.info("training: first %s (%d tokens):\n%s", name, len(ids), encoder.decode(ids))
        if item.views:
            logger.info("training: the teacher reads it in %d orders of the choices", len(item.views))
