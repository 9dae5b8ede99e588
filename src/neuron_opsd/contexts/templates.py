"""How many demonstrations are of their question's own template, beside how many random ones would be.

Of one template are questions that open with the same words once numbers and names are masked (`template_key`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from neuron_opsd.questions.duplicates import template_key
from neuron_opsd.records import Question, TeacherContext
from neuron_opsd.run.session import Run


def template_shares(
    run: Run, queries: Sequence[Question], contexts: Sequence[TeacherContext]
) -> dict[str, float | None]:
    """How many demonstrations are of their question's own template, and how many random ones would be (1: all).

    Of one template are questions that open with the same words once numbers and names are masked (`template_key`).
    """
    candidates = {
        question.question_id: question for question in run.inputs.other_questions or run.records.pool
    }
    known = candidates | {question.question_id: question for question in queries}
    counts = Counter(template_key(question.question) for question in candidates.values())
    by_chance = []
    for query in queries:
        is_candidate = query.question_id in candidates
        others = len(candidates) - is_candidate
        if others:
            by_chance.append((counts[template_key(query.question)] - is_candidate) / others)
    return {
        "same_template_fraction": same_template_share(contexts, known),
        "same_template_by_chance": sum(by_chance) / len(by_chance) if by_chance else None,
    }


def same_template_share(
    contexts: Sequence[TeacherContext], questions: Mapping[str, Question]
) -> float | None:
    """Share of the demonstrations that open like the question they stand before. None where none is shown."""
    same = [
        template_key(questions[shown.question_id].question)
        == template_key(questions[context.question_id].question)
        for context in contexts
        for shown in context.demonstrations
    ]
    return sum(same) / len(same) if same else None
