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
    candidates = run.inputs.other_questions or run.records.pool
    keys = {question.question_id: template_key(question.question) for question in [*candidates, *queries]}
    counts = Counter(keys[question.question_id] for question in candidates)
    candidate_ids = {question.question_id for question in candidates}
    by_chance = []
    for query in queries:
        is_candidate = query.question_id in candidate_ids
        others = len(candidate_ids) - is_candidate
        if others:
            by_chance.append((counts[keys[query.question_id]] - is_candidate) / others)
    return {
        "same_template_fraction": same_template_share(contexts, keys),
        "same_template_by_chance": sum(by_chance) / len(by_chance) if by_chance else None,
    }


def same_template_share(contexts: Sequence[TeacherContext], keys: Mapping[str, str]) -> float | None:
    """Share of the demonstrations that open like the question they stand before. None where none is shown.

    Args:
        contexts: What the teacher reads.
        keys: `template_key` of every question in them, by id.
    """
    same = [
        keys[shown.question_id] == keys[context.question_id]
        for context in contexts
        for shown in context.demonstrations
    ]
    return sum(same) / len(same) if same else None
