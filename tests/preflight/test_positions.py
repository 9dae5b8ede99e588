"""Whether a model answers by position, from rollouts worked by hand."""

import random

import pytest

from neuron_opsd.preflight.positions import answers_by_position, position_bias, position_counts
from neuron_opsd.records import Rollout


def rollout(
    number: int, answer: str | None, order: tuple[int, ...] = (0, 1, 2, 3), index: int = 0
) -> Rollout:
    return Rollout(
        question_id=f"q{number:03}", rollout_index=index, choice_order=order, prompt_ids=(1,), completion_ids=(2,),
        token_log_probs=(0.0,), finish_reason="stop", reply="", answer=answer,
    )  # fmt: skip


def test_positions_are_those_that_were_shown() -> None:
    # Choice C was shown second, choice A first. The unreadable one and the free-form one count nothing.
    given, even = position_counts(
        [
            rollout(0, "C", (0, 2, 1)),
            rollout(0, "A", (0, 2, 1), index=1),
            rollout(1, "D"),
            rollout(2, None),
            rollout(3, "text", ()),
        ]
    )
    assert given[:, :4].tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert even[0, :4].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])
    assert even[1, :4].tolist() == [0.25] * 4


def test_the_bias_by_hand() -> None:
    found = position_bias([rollout(i, "A" if i < 60 else "B") for i in range(100)], seed=0)
    assert found is not None
    # A .6, B .4, others 0, each .25 if even: half of .35 + .15 + .25 + .25.
    assert found.value == pytest.approx(0.5)
    assert answers_by_position(found)
    assert found.note.startswith("A has 60% of the readable answers, 25% would be even. Chance alone")


def test_even_answers_have_no_more_bias_than_chance() -> None:
    found = position_bias([rollout(i, "ABCD"[i % 4]) for i in range(100)], seed=0)
    assert found is not None
    assert found.value == pytest.approx(0)
    # A model that follows the choices, whatever their place, is not one that answers by position.
    turned = [rollout(i, "A", tuple((i + j) % 4 for j in range(4))) for i in range(100)]
    assert position_bias(turned, seed=0).value == pytest.approx(0)  # pyright: ignore[reportOptionalMemberAccess]
    assert not answers_by_position(found)


def test_questions_without_choices_have_no_positions() -> None:
    assert position_bias([rollout(0, "text", ())], seed=0) is None


def test_chance_alone_is_no_bias() -> None:
    """Of few answers the distance from an even spread is large by chance, and its interval with it."""
    state = random.Random(0)
    for count, most in ((5, 0), (10, 8), (15, 8)):
        drawn = [[rollout(i, state.choice("ABCD")) for i in range(count)] for _ in range(100)]
        found = [position_bias(rollouts, seed=0) for rollouts in drawn]
        assert sum(bias is not None and answers_by_position(bias) for bias in found) <= most
