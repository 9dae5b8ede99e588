"""What student and teacher read for a question: the bare question, and the question after its demonstrations."""

from collections.abc import Sequence
from typing import Any

from neuron_opsd.contexts.build import context_messages
from neuron_opsd.records import Demonstration, Question, TeacherContext
from neuron_opsd.rollouts.sample import MessagesOf
from neuron_opsd.run.session import Run
from neuron_opsd.text.prompts import Message, student_messages


def both_messages(
    run: Run,
    question_id: str,
    choice_order: tuple[int, ...],
    demonstrations: Sequence[Demonstration] | None = None,
) -> tuple[list[Message], list[Message]]:
    """The student's and the teacher's messages for one question. By default with its context's demonstrations."""
    question, prompts = run.records.pool_by_id[question_id], run.config.prompts
    student = student_messages(
        question, choice_order=choice_order, answer_format=prompts.answer_format, system=prompts.system
    )
    teacher = context_messages(
        question,
        run.records.context(question_id).demonstrations if demonstrations is None else demonstrations,
        run.records.shown_by_id,
        choice_order=choice_order,
        settings=run.config.contexts,
        prompts=prompts,
    )
    return student, teacher


def teacher_messages_of(run: Run, stage: str, questions: Sequence[Question]) -> MessagesOf:
    """What is read before these questions by the contexts of a stage, for any order of the choices."""
    contexts = {context.question_id: context for context in run.folder.stage(stage).read(TeacherContext)}
    known = run.records.shown_by_id | {question.question_id: question for question in questions}

    def messages(question: Question, choice_order: tuple[int, ...]) -> list[Message]:
        return context_messages(
            question,
            contexts[question.question_id].demonstrations,
            known,
            choice_order=choice_order,
            settings=run.config.contexts,
            prompts=run.config.prompts,
        )

    return messages


def show_prompts(run: Run, question_id: str) -> dict[str, Any]:
    """Exactly what student and teacher read for one selected question, and how long it is."""
    context = run.records.context(question_id)
    identity = tuple(range(len(run.records.pool_by_id[question_id].choices)))
    encoder = run.models.encoder()
    messages = both_messages(run, question_id, identity)
    student, teacher = encoder.encode(messages[0]), run.models.encoder(teacher=True).encode(messages[1])
    return {
        "question_id": question_id,
        "student_prompt": encoder.decode(student),
        "teacher_prompt": encoder.decode(teacher),
        "num_student_prompt_tokens": len(student),
        "num_teacher_prompt_tokens": len(teacher),
        "num_demonstrations": len(context.demonstrations),
        "num_demonstrations_dropped": context.num_demonstrations_dropped,
    }
