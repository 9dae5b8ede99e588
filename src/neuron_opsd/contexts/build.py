"""Selected questions + neighbours -> teacher contexts: what only the teacher reads (method, section 5).

A demonstration is a neighbour's question and the model's OWN zero-shot reply, as earlier chat turns. Demonstrations are
dropped, farthest first, until the prompt fits the token budget. The count is recorded. The question is never cut.
"""

from collections.abc import Mapping, Sequence

from neuron_opsd.config import ContextSettings, PromptSettings
from neuron_opsd.contexts.neighbours import Neighbours
from neuron_opsd.errors import DataError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.records import Demonstration, Question, Rollout, TeacherContext
from neuron_opsd.text.prompts import Message, student_messages, teacher_messages


def build_contexts(
    question_ids: Sequence[str],
    neighbours: Neighbours,
    questions: Mapping[str, Question],
    rollouts: Mapping[str, Rollout],
    encoder: ChatEncoder,
    *,
    settings: ContextSettings,
    prompts: PromptSettings,
) -> list[TeacherContext]:
    """One context for each selected question.

    Args:
        question_ids: The selected questions, in order.
        neighbours: For each, (id, distance) of its neighbours, nearest first.
        questions: The pool by id.
        rollouts: The reply that each question demonstrates with, by id.
        encoder: The chat template. Budgets are counted in its tokens.
        settings: `contexts.*`.
        prompts: Wording.

    Raises:
        DataError: a question that exceeds the budget without any demonstration.
    """
    return [
        _build_context(
            questions[i], _demonstrations(neighbours[i], rollouts), questions, encoder, settings, prompts
        )
        for i in question_ids
    ]


def context_messages(
    question: Question,
    demonstrations: Sequence[Demonstration],
    questions: Mapping[str, Question],
    *,
    choice_order: Sequence[int],
    settings: ContextSettings,
    prompts: PromptSettings,
) -> list[Message]:
    """The teacher's messages. `demonstrations` are nearest first, the reading order is `contexts.order`."""
    shown = list(demonstrations) if settings.order == "nearest_first" else list(reversed(demonstrations))
    return teacher_messages(
        question,
        [(questions[item.question_id], item) for item in shown],
        choice_order=choice_order,
        answer_format=prompts.answer_format,
        system=prompts.system,
        keep_thinking=prompts.keep_thinking,
    )


def _demonstrations(
    neighbours: Sequence[tuple[str, float]], rollouts: Mapping[str, Rollout]
) -> list[Demonstration]:
    return [
        Demonstration(
            question_id=other,
            choice_order=rollouts[other].choice_order,
            reply=rollouts[other].reply,
            distance=distance,
        )
        for other, distance in neighbours
    ]


def _build_context(
    question: Question,
    demonstrations: list[Demonstration],
    questions: Mapping[str, Question],
    encoder: ChatEncoder,
    settings: ContextSettings,
    prompts: PromptSettings,
) -> TeacherContext:
    identity = tuple(range(len(question.choices)))

    def num_tokens(count: int) -> int:
        shown = demonstrations[:count]
        messages = context_messages(
            question, shown, questions, choice_order=identity, settings=settings, prompts=prompts
        )
        return len(encoder.encode(messages))

    kept = len(demonstrations)
    while (size := num_tokens(kept)) > settings.max_prompt_tokens:
        if kept == 0:
            raise DataError(
                f"Question {question.question_id} alone takes {size} tokens of the teacher's prompt, more than "
                f"contexts.max_prompt_tokens={settings.max_prompt_tokens}. Raise it, or remove the question."
            )
        kept -= 1
    student = student_messages(
        question, choice_order=identity, answer_format=prompts.answer_format, system=prompts.system
    )
    return TeacherContext(
        question_id=question.question_id,
        demonstrations=tuple(demonstrations[:kept]),
        num_demonstrations_dropped=len(demonstrations) - kept,
        num_student_prompt_tokens=len(encoder.encode(student)),
        num_teacher_prompt_tokens=size,
    )
