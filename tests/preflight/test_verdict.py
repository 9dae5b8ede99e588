"""The preflight's measures, worked by hand, and the verdict they lead to."""

from dataclasses import replace

import pytest

from neuron_opsd.preflight.verdict import (
    CANNOT_TELL,
    UNLIKELY,
    agreements,
    flips_by_chance,
    judge,
)
from neuron_opsd.records import PreflightItem
from neuron_opsd.results import Measure, PreflightVerdict
from neuron_opsd.statistics import Correlation

NO_CORRELATION = Correlation("Pearson", 0.1, -0.1, 0.3, 100)


def item(
    number=0,
    *,
    student="AAAB",
    teacher="AAAA",
    tokens=4,
    entropies=(4.0, 3.0),
    divergence=0.4,
    lengths=((4,) * 4, (4,) * 4),
    finished=((True,) * 4, (True,) * 4),
) -> PreflightItem:
    return PreflightItem(
        question_id=f"q{number}",
        student_answers=tuple(None if letter == "-" else letter for letter in student),
        teacher_answers=tuple(None if letter == "-" else letter for letter in teacher),
        student_reply=student[0],
        teacher_reply=teacher[0],
        student_lengths=lengths[0],
        teacher_lengths=lengths[1],
        student_finished=finished[0],
        teacher_finished=finished[1],
        num_completion_tokens=tokens,
        student_entropy=entropies[0],
        teacher_entropy=entropies[1],
        reverse_kl=divergence,
    )


def judged(items, *, r=NO_CORRELATION, **figures) -> PreflightVerdict:
    figures = {"pool_diversity": 0.6, "same_template": 0.5, "position_bias": None, "thinks": False} | figures
    return judge(items, length_correlation=r, seed=0, **figures)


def values(items) -> dict[str, float]:
    return {measure.name: measure.value for measure in judged(items).measures}


def test_measures_by_hand() -> None:
    items = [
        item(0, student="AAAB", teacher="BBBB", tokens=4, entropies=(4.0, 3.0), divergence=0.4),
        item(1, student="CC-C", teacher="CCCC", tokens=1, entropies=(0.5, 1.0), divergence=0.1),
    ]
    found = values(items)
    assert found["entropy_change"] == pytest.approx(
        (-1.0 + 0.5) / 5
    )  # a mean over tokens, not over questions
    assert found["divergence"] == pytest.approx(0.5 / 5)
    assert found["answers_flipped"] == 0.5
    assert found["maj_minus_avg"] == pytest.approx(
        1 - 0.75
    )  # an unparsable sample counts against its question
    assert (found["pool_diversity"], found["same_template"], found["length_correlation"]) == (0.6, 0.5, 0.1)


def test_intervals_cover_and_shrink() -> None:
    few, many = ([item(i, entropies=(4.0, 3.0 + i % 2)) for i in range(n)] for n in (10, 80))
    ends = [(m.low, m.value, m.high) for m in (judged(i).measures[0] for i in (few, many))]
    assert all(low < value < high for low, value, high in ends)
    assert ends[1][2] - ends[1][0] < ends[0][2] - ends[0][0]


@pytest.mark.parametrize(
    ("entropies", "divergence", "verdict", "is_warned"),
    [
        ((4.0, 3.0), 0.4, CANNOT_TELL, True),
        ((4.0, 4.0), 0.4, CANNOT_TELL, False),
        ((4.0, 4.5), 0.4, CANNOT_TELL, False),
        ((4.0, 3.99), 0.4, CANNOT_TELL, False),  # -0.0025 a token
        ((4.0, 3.97), 0.4, CANNOT_TELL, True),  # -0.0075
        ((4.0, 3.0), 0.01, UNLIKELY, True),  # 0.0025 a token: nothing to learn
    ],
)
def test_nothing_promises_a_gain_and_a_surer_teacher_is_a_warning(
    entropies, divergence, verdict, is_warned
) -> None:
    items = [item(i, entropies=entropies, divergence=divergence) for i in range(12)]
    found = judged(items)
    assert found.verdict == verdict
    assert any("overconfident" in reason for reason in found.reasons) == is_warned
    assert ("no measure foresaw the gain" in found.reasons[0]) == (verdict == CANNOT_TELL)


def test_a_teacher_brought_to_the_students_entropy_makes_nobody_surer() -> None:
    surer = [item(i, entropies=(4.0, 3.0)) for i in range(12)]
    found = judged(surer, matches_entropy=True)
    assert not any("overconfident" in reason for reason in found.reasons)
    assert "Training brings it to the student's entropy" in found.measures[0].note


def test_agreement_with_the_students_vote_by_hand() -> None:
    # Without the first, the second, the third A the vote is A. Without B it is A. So the student agrees in 3 of 4.
    assert agreements(item(student="AAAB", teacher="AABC")) == (0.75, 0.5)
    # Without A, and without the unreadable one, the vote is C. Without a C the others tie, and A was given first.
    assert agreements(item(student="AC-C", teacher="CCCC")) == (0.0, 0.5)
    assert agreements(item(student="--", teacher="AA")) is None
    assert agreements(item(student="A", teacher="A")) is None  # nobody is left to vote
    items = [item(i, student="AAAA", teacher="AABB") for i in range(12)]
    found = {measure.name: measure for measure in judged(items).measures}["agreement_change"]
    assert (found.value, found.student, found.teacher) == (-0.5, 1.0, 0.5)
    assert any("vote for in 50%" in reason for reason in judged(items).reasons)


def test_agreement_with_the_order_averaged_answer_is_a_measure_and_no_sign() -> None:
    letters = [("A", "A", "B")] * 9 + [("A", "B", "A")] * 3 + [(None, None, None)] * 4
    items = [
        replace(item(i), averaged_letter=averaged, student_letter=student, teacher_letter=teacher)
        for i, (averaged, student, teacher) in enumerate(letters)
    ]
    found = judged(items)
    measured = {measure.name: measure for measure in found.measures}["order_agreement_change"]
    assert (measured.value, measured.student, measured.teacher) == (-0.5, 0.75, 0.25)
    assert found.reasons == judged([item(i) for i in range(len(items))]).reasons
    assert "order_agreement_change" not in values([item(i) for i in range(4)])


def test_a_teacher_whose_replies_hardly_end_is_not_worth_learning_from() -> None:
    cut = ((True,) * 4, (False, False, False, True))
    found = judged([item(i, finished=cut) for i in range(10)])
    assert found.verdict == UNLIKELY
    assert "with the context 25% of the replies finish" in found.reasons[0]


def test_the_other_signs_warn_and_do_not_decide() -> None:
    items = [item(i, student="AAAA", teacher="AAAA") for i in range(12)]
    found = judged(items, r=Correlation("Pearson", -0.9, -0.95, -0.8, 100))
    assert found.verdict == CANNOT_TELL
    text = "; ".join(found.reasons)
    for part in ("flips no majority answer", "agrees with itself", "r = -0.90"):
        assert part in text


def test_what_cannot_be_measured_is_none() -> None:
    r = Correlation("Pearson", float("nan"), float("nan"), float("nan"), 2)
    measures = judged([item()], r=r, pool_diversity=None, same_template=None).measures
    missing = {measure.name for measure in measures if measure.value is None}
    assert missing == {"pool_diversity", "same_template", "length_correlation"}


def test_flips_by_chance() -> None:
    assert not flips_by_chance([item(student="AAAA", teacher="AAAA")], seed=0).any()
    # AA against BB: a deal flips unless both halves are A, B in the same order: first answers decide ties.
    shares = flips_by_chance([item(i, student="AA", teacher="BB") for i in range(50)], seed=0)
    assert shares.mean() == pytest.approx(2 / 3, abs=0.03)  # AABB BBAA flip; of ABAB ABBA BABA BAAB two do


def test_a_teacher_that_cannot_be_read_is_not_worth_learning_from() -> None:
    """Measured: demonstrations cut before their letter made a teacher surer, and unreadable in 15 of 16 samples."""
    cut = [item(number, student="AB-A", teacher="----", divergence=1.0) for number in range(10)]
    found = judged(cut)
    assert found.verdict == UNLIKELY
    assert any(
        "readable in 0%, the student's in 75%" in reason and "max_new_tokens" in reason
        for reason in found.reasons
    )
    assert values(cut)["readable_change"] == pytest.approx(-0.75)
    clearer = [item(number, student="A-B-", teacher="AAAA", divergence=1.0) for number in range(10)]
    assert judged(clearer).verdict == CANNOT_TELL
    worse = [item(number, student="ABCA", teacher="AA--", divergence=1.0) for number in range(10)]
    assert judged(worse).verdict == CANNOT_TELL  # half as readable still: a warning
    assert any("readable in 50%" in reason for reason in judged(worse).reasons)
    one_slip = [item(number, teacher="AAAA") for number in range(9)] + [item(9, teacher="AAA-")]
    assert judged(one_slip).verdict == CANNOT_TELL  # one unreadable sample is no evidence


def test_few_questions_say_nothing_of_replies() -> None:
    """One question resampled is always itself: its interval had no width, and left out 0."""
    found = judged([item(student="ABCA", teacher="A---", divergence=1.0)])
    assert found.verdict == CANNOT_TELL
    assert all((measure.low, measure.high) == (None, None) for measure in found.measures[:4])
    assert "looked at 1 of the questions, too few to say" in found.reasons[-1]


def test_of_unreadable_answers_no_vote_gains() -> None:
    assert values([item(student="----")])["maj_minus_avg"] == 0


def test_equivalent_answers_are_no_flip() -> None:
    same = [
        replace(item(i), student_answers=("9", "9 apples"), teacher_answers=("9 apples", "9 apples"))
        for i in range(10)
    ]
    assert values(same)["answers_flipped"] == 0
    assert not flips_by_chance(same, seed=0).any()


def test_the_context_makes_replies_longer_and_fewer_finish() -> None:
    lengths, finished = ((10, 10, 10, 10), (20, 20, 20, 40)), ((True,) * 4, (True, True, False, False))
    items = [item(i, lengths=lengths, finished=finished) for i in range(10)]
    verdict = judged(items)
    by_name = {measure.name: measure for measure in verdict.measures}
    assert (by_name["finished_change"].value, by_name["length_ratio"].value) == (-0.5, 2.5)
    assert (by_name["length_ratio"].student, by_name["length_ratio"].teacher) == (10, 25)
    assert any("50% of the replies finish, without it 100%" in reason for reason in verdict.reasons)
    assert "2607.05184" not in " ".join(verdict.reasons)
    assert not any("replies finish" in reason for reason in judged([item(i) for i in range(10)]).reasons)


def test_a_thinking_model_is_told_what_was_reported_and_measured() -> None:
    verdict = judged([item(i, lengths=((8,) * 4, (6,) * 4)) for i in range(10)], thinks=True)
    assert verdict.thinks
    assert "2607.05184" in verdict.reasons[-1]
    assert "100% of the replies finish with it and 100% without, at 6 and 8 tokens" in verdict.reasons[-1]


@pytest.mark.parametrize(
    ("ends", "averages_orders", "verdict"),
    [
        ((0.04, 0.13), True, UNLIKELY),  # as the 1.5B model on CommonsenseQA, which lost by it
        ((0.04, 0.13), False, CANNOT_TELL),
        ((0.1, 0.2), True, CANNOT_TELL),
        ((0.2, 0.3), True, CANNOT_TELL),
    ],
)
def test_orders_averaged_without_a_position_bias_speak_against_training(
    ends, averages_orders, verdict
) -> None:
    bias = Measure(
        name="position_bias",
        label="",
        value=sum(ends) / 2,
        low=ends[0],
        high=ends[1],
        note="B has 28%. Even is 20%.",
    )
    found = judged(
        [item(i, teacher="AABB") for i in range(8)], position_bias=bias, averages_orders=averages_orders
    )
    assert found.verdict == verdict
    assert ("does not answer by position (B has 28%)" in found.reasons[0]) == (verdict != CANNOT_TELL)
