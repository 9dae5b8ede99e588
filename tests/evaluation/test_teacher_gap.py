import pytest

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.evaluation.teacher_gap import measure_gap
from neuron_opsd.records import PreflightItem

SETTINGS = EvaluationSettings(num_bootstrap=200)


def item(number: int, student: str, teacher: str) -> PreflightItem:
    return PreflightItem(
        question_id=f"q{number}",
        student_answers=tuple(student),
        teacher_answers=tuple(teacher),
        student_reply="",
        teacher_reply="",
        student_lengths=(),
        teacher_lengths=(),
        student_finished=(),
        teacher_finished=(),
        num_completion_tokens=1,
        student_entropy=0.0,
        teacher_entropy=0.0,
        reverse_kl=0.0,
    )


def test_gap_by_hand_over_the_questions_that_have_an_answer() -> None:
    items = [item(0, "AAAB", "AAAA"), item(1, "BBCC", "CCCB"), item(2, "DDDD", "AAAA")]
    gap = measure_gap(items, {"q0": "A", "q1": "C"}, SETTINGS, seed=0)
    assert gap is not None
    assert gap.num_with_gold == 2
    assert gap.student_accuracy == pytest.approx((0.75 + 0.5) / 2)
    assert gap.teacher_accuracy == pytest.approx((1 + 0.75) / 2)
    found = {measure.name: measure for measure in gap.measures}
    assert found["teacher_accuracy_gap"].value == pytest.approx(0.25)
    assert found["maj_minus_avg_gold"].value == pytest.approx((1 + 0) / 2 - 0.625)  # a tie goes to B, first
    assert found["teacher_accuracy_gap"].low is None  # two questions: no interval


def test_an_interval_from_ten_questions_on_and_nothing_without_answers() -> None:
    items = [item(i, "AB", "AA" if i % 3 else "AB") for i in range(12)]
    gap = measure_gap(items, {entry.question_id: "A" for entry in items}, SETTINGS, seed=0)
    assert gap is not None
    first = gap.measures[0]
    assert first.value == pytest.approx(1 / 3)
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.value < first.high
    assert measure_gap(items, {}, SETTINGS, seed=0) is None
