"""What student and teacher read: the prompts of training, preflight and `neuron-opsd show`."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from neuron_opsd.contexts.build import context_messages
from neuron_opsd.contexts.neighbours import can_demonstrate
from neuron_opsd.preflight.probe import PromptPair, sample_ids
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Demonstration, Question, TeacherContext
from neuron_opsd.rollouts.sample import MessagesOf, choice_orders
from neuron_opsd.run.stage_records import RunMaterials
from neuron_opsd.text.prompts import Message, student_messages
from neuron_opsd.text.replies import read_reply
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.schedule import question_order

logger = logging.getLogger(__name__)


class RunPrompts(RunMaterials):
    """Both roles' prompts, as one run asks them in training and preflight, and what is read from replies."""

    def training_items(self, num_items: int) -> LazyItems:
        """The schedule, a place for each completion: both prompts, the choices in the same order for both roles."""
        num_rollouts = self.config.training.num_rollouts
        # Without a contexts stage, the teacher's context is empty or is built during training.
        has_contexts = "contexts" in self.inputs.made
        order = question_order(self.training_ids(), num_items // num_rollouts, seed=self.config.seed)

        @lru_cache(maxsize=64)  # the completions of one question follow one another
        def prompts(group: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
            choices = self.training_choices(order[group], group)
            student, teacher = self.both_messages(order[group], choices, None if has_contexts else ())
            return tuple(self.encoder().encode(student)), tuple(self.encoder(teacher=True).encode(teacher))

        def make_item(index: int) -> TrainingItem:
            question_id, (student, teacher) = order[index // num_rollouts], prompts(index // num_rollouts)
            return TrainingItem(
                question_id=question_id,
                student_ids=student,
                teacher_ids=teacher,
                seed=derive_seed(self.config.seed, "training", question_id, index),
            )

        return LazyItems(num_items, make_item)

    def group_prompt(self, item: TrainingItem, completion_ids: Sequence[int]) -> tuple[int, ...] | None:
        """The teacher's prompt with one completion of the item's own group; None: it is empty, or does not fit."""
        choices = self.training_choices(item.question_id, item.place // self.config.training.num_rollouts)
        reply = self.encoder().decode_reply(completion_ids)
        shown = Demonstration(question_id=item.question_id, choice_order=choices, reply=reply, distance=0.0)
        if not can_demonstrate(reply):
            return None
        ids = self.encoder(teacher=True).encode(self.both_messages(item.question_id, choices, [shown])[1])
        return tuple(ids) if len(ids) <= self.context_settings().max_prompt_tokens else None

    def held_out_prompts(self, count: int, *, max_tokens: int | None) -> tuple[int, list[tuple[int, ...]]]:
        """The bare prompts of up to `count` pool questions, drawn by seed, and how many of them training did not use.

        Those that training did not use come first. Prompts of more than `max_tokens` are left out.
        """
        used = set(self.training_ids())
        drawn = sorted(
            (question.question_id for question in self.pool),
            key=lambda name: (name in used, derive_seed(self.config.seed, "publish", name)),
        )
        orders = ((name, tuple(range(len(self.questions_by_id[name].choices)))) for name in drawn)
        prompts = (
            (name, tuple(self.encoder().encode(self.both_messages(name, order, ())[0])))
            for name, order in orders
        )
        fitting = ((name, ids) for name, ids in prompts if max_tokens is None or len(ids) <= max_tokens)
        kept = list(islice(fitting, count))
        return sum(name not in used for name, _ in kept), [ids for _, ids in kept]

    def longest_prompts(self) -> tuple[int, int]:
        """Tokens of the selection's longest student prompt, and of its longest teacher prompt."""
        if "contexts" not in self.inputs.made:
            return self._longest_without_contexts()
        contexts = [self.context(question_id) for question_id in self.training_ids()]
        return (
            max(context.num_student_prompt_tokens for context in contexts),
            max(context.num_teacher_prompt_tokens for context in contexts),
        )

    def _longest_without_contexts(self) -> tuple[int, int]:
        """The teacher reads the question too; where it reads an answer of the group, the question twice."""
        choices = {
            name: tuple(range(len(self.questions_by_id[name].choices))) for name in self.training_ids()
        }
        longest = max(
            len(self.encoder().encode(self.both_messages(name, order, ())[0]))
            for name, order in choices.items()
        )
        if self.config.contexts.retrieval != "own_group" or self.config.training.objective != "distillation":
            return longest, longest
        whole = 2 * longest + self.config.training.max_new_tokens
        return longest, min(whole, self.context_settings().max_prompt_tokens)

    def training_choices(self, question_id: str, group: int) -> tuple[int, ...]:
        """The order of the choices for the completions of one group of the schedule."""
        return choice_orders(
            self.questions_by_id[question_id],
            1,
            shuffle=self.config.rollouts.shuffle_choices,
            seed=self.config.seed,
            stage=f"training {group}",
        )[0]

    def read_answer(self, item: TrainingItem) -> str | None:
        """The answer in a completion of training, by the rules of the rollouts: for votes, never for a loss."""
        return read_reply(
            self.encoder().decode_reply(item.completion_ids),
            choices=self.questions_by_id[item.question_id].choices,
            choice_order=self.training_choices(
                item.question_id, item.place // self.config.training.num_rollouts
            ),
            prompts=self.config.prompts,
            finish_reason=item.finish_reason,
        ).answer

    def preflight_pairs(self) -> list[PromptPair]:
        """Both prompts of each sample of the questions that the preflight looks at, question by question."""
        settings, seed, encoder = self.config.preflight, self.config.seed, self.encoder()
        teacher_encoder = self.encoder(teacher=True)
        pairs: list[PromptPair] = []
        for question_id in sample_ids(self.training_ids(), settings.num_questions, seed=seed):
            orders = choice_orders(
                self.questions_by_id[question_id],
                settings.num_samples,
                shuffle=self.config.rollouts.shuffle_choices,
                seed=seed,
                stage="preflight",
            )
            for index, order in enumerate(orders):
                student, teacher = self.both_messages(question_id, order)
                pairs.append(
                    PromptPair(
                        question_id=question_id,
                        choice_order=order,
                        student_ids=tuple(encoder.encode(student)),
                        teacher_ids=tuple(teacher_encoder.encode(teacher)),
                        seed=derive_seed(seed, "preflight", question_id, index),
                    )
                )
        return pairs

    def both_messages(
        self,
        question_id: str,
        choice_order: tuple[int, ...],
        demonstrations: Sequence[Demonstration] | None = None,
    ) -> tuple[list, list]:
        """The student's and the teacher's messages for one question; by default with its context's demonstrations."""
        question, prompts = self.questions_by_id[question_id], self.config.prompts
        student = student_messages(
            question, choice_order=choice_order, answer_format=prompts.answer_format, system=prompts.system
        )
        teacher = context_messages(
            question,
            self.context(question_id).demonstrations if demonstrations is None else demonstrations,
            self.shown_by_id,
            choice_order=choice_order,
            settings=self.config.contexts,
            prompts=prompts,
        )
        return student, teacher

    def teacher_messages_of(self, stage: str, questions: Sequence[Question]) -> MessagesOf:
        """What is read before these questions by the contexts of a stage, for any order of the choices."""
        contexts = {context.question_id: context for context in self.folder.stage(stage).read(TeacherContext)}
        known = self.shown_by_id | {question.question_id: question for question in questions}

        def messages(question: Question, choice_order: tuple[int, ...]) -> list[Message]:
            return context_messages(
                question,
                contexts[question.question_id].demonstrations,
                known,
                choice_order=choice_order,
                settings=self.config.contexts,
                prompts=self.config.prompts,
            )

        return messages

    def show(self, question_id: str) -> dict[str, Any]:
        """Exactly what student and teacher read for one selected question, and how long it is."""
        context = self.context(question_id)
        identity = tuple(range(len(self.questions_by_id[question_id].choices)))
        encoder = self.encoder()
        messages = self.both_messages(question_id, identity)
        student, teacher = encoder.encode(messages[0]), self.encoder(teacher=True).encode(messages[1])
        return {
            "question_id": question_id,
            "student_prompt": encoder.decode(student),
            "teacher_prompt": encoder.decode(teacher),
            "num_student_prompt_tokens": len(student),
            "num_teacher_prompt_tokens": len(teacher),
            "num_demonstrations": len(context.demonstrations),
            "num_demonstrations_dropped": context.num_demonstrations_dropped,
        }

    def log_first_item(self, item: TrainingItem) -> None:
        """At step 0: one student prompt, teacher prompt and completion as they are."""
        encoder = self.encoder()
        for name, ids in (
            ("student prompt", item.student_ids),
            ("teacher prompt", item.teacher_ids),
            ("completion", item.completion_ids),
        ):
            logger.info("train: first %s (%d tokens):\n%s", name, len(ids), encoder.decode(ids))
