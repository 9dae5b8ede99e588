"""Preflight records + gold answers -> how much better the base model answers with its context than without."""

from collections.abc import Mapping, Sequence

import numpy as np

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.records import PreflightItem
from neuron_opsd.results import Measure, TeacherGap
from neuron_opsd.statistics import MIN_QUESTIONS, paired_mean_difference
from neuron_opsd.text.answers import answers_match, majority_answer

Answers = Sequence[str | None]


def measure_gap(
    items: Sequence[PreflightItem], key: Mapping[str, str], settings: EvaluationSettings, *, seed: int
) -> TeacherGap | None:
    """Measures as in the preflight's verdict, over the items that have a gold answer. None where none has."""
    scored = [item for item in items if item.question_id in key]
    if not scored:
        return None
    student, teacher = (
        np.array([_accuracy(getattr(item, f"{role}_answers"), key[item.question_id]) for item in scored])
        for role in ("student", "teacher")
    )
    majority = np.array([_majority_right(item.student_answers, key[item.question_id]) for item in scored])
    entries = (
        ("teacher_accuracy_gap", "Accuracy of the teacher − the student", student, teacher),
        ("maj_minus_avg_gold", "Maj minus Avg of the student, by gold answers", student, majority),
    )
    note = f"Over {len(scored)} questions with a gold answer; it decides nothing."
    enough = len(scored) >= MIN_QUESTIONS
    measures: list[Measure] = []
    for name, label, before, after in entries:
        change = paired_mean_difference(before, after, num_resamples=settings.num_bootstrap, seed=seed)
        low, high = (change.low, change.high) if enough else (None, None)
        measures.append(Measure(name=name, label=label, value=change.value, low=low, high=high, note=note))
    return TeacherGap(
        num_with_gold=len(scored),
        student_accuracy=float(student.mean()),
        teacher_accuracy=float(teacher.mean()),
        measures=tuple(measures),
    )


def _accuracy(answers: Answers, gold: str) -> float:
    return sum(answers_match(answer, gold) for answer in answers) / len(answers)


def _majority_right(answers: Answers, gold: str) -> float:
    return float(answers_match(majority_answer(answers, skip_unparsable=False).answer, gold))
