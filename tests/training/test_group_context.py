"""The teacher's prompt from the step's own group: by hand, and in a real step of a tiny model."""

from training_runs import grouped_item, rows, settings, tiny_train

from neuron_opsd.text.answers import Vote
from neuron_opsd.training.group_context import read_own_group
from neuron_opsd.training.items import TrainingItem, carries_loss

CHOSEN = settings(num_rollouts=4, distil="disagreeing", min_vote_share=0.5)


def group(answers: list[str | None], *, number: int = 0, vote: Vote, chosen=CHOSEN):
    """The items of one group after the vote, each completion its own place, and what `read_own_group` makes of them."""
    first = 4 * number
    items = [TrainingItem("q", (5,), (5,), 0, (first + i,), place=first + i) for i in range(4)]
    given = {first + i: answer for i, answer in enumerate(answers)}
    marked = [
        TrainingItem(
            "q", (5,), (5,), 0, item.completion_ids, place=item.place,
            has_loss=carries_loss(item, given[item.place], vote, chosen),
        )
        for item in items
    ]  # fmt: skip
    shown = []

    def prompt(item: TrainingItem, completion_ids) -> tuple[int, ...] | None:
        shown.append(completion_ids)
        return None if completion_ids == (first,) else (*completion_ids, 9, *item.student_ids)

    return read_own_group(marked, given, {number: vote}, prompt, chosen), shown


def test_the_group_reads_the_first_agreeing_answer_that_can_be_shown_and_learns_from_the_others() -> None:
    made, shown = group(["B", None, "B", "A"], number=3, vote=Vote("B", 2, 4))
    assert shown == [(12,), (14,)]  # once for the group, in the order sampled
    assert {item.teacher_ids for item in made} == {(14, 9, 5)}
    assert [item.has_loss for item in made] == [False, True, False, True]


def test_equivalent_answers_agree() -> None:
    made, _ = group(["8", "9", "9 apples", "7"], vote=Vote("9", 2, 4))
    assert [item.has_loss for item in made] == [True, False, False, True]


def test_a_group_without_a_clear_majority_or_an_answer_to_show_is_skipped() -> None:
    for answers, vote in (
        (["B", "A", "C", "D"], Vote("A", 1, 4)),  # a share below 0.5
        ([None] * 4, Vote(None, 0, 4)),
        (["A", "B", "C", "D"], Vote("A", 4, 4)),  # settled, but the only agreeing one cannot be shown
    ):
        for distil in ("disagreeing", "all"):
            chosen = settings(num_rollouts=4, distil=distil, min_vote_share=0.5)
            made, _ = group(answers, vote=vote, chosen=chosen)
            assert not any(item.has_loss for item in made)
            assert {item.teacher_ids for item in made} == {(5,)}


def test_training_says_how_many_groups_are_settled_and_learns_from_their_disagreeing_answers(
    tmp_path,
) -> None:
    def read(item: TrainingItem) -> str:
        return "ABCD"[item.completion_ids[0] % 4]

    tiny_train(
        tmp_path, steps=1, item=grouped_item(4), read_answer=read, max_new_tokens=2, **CHOSEN_OPTIONS,
        group_prompt=lambda item, ids: (7, *ids, *item.student_ids),
    )  # fmt: skip
    (row,) = rows(tmp_path)
    assert 0 < row["settled_fraction"] < 1
    assert 0 < row["num_loss_tokens"] <= (0.5 * row["settled_fraction"]) * row["num_completion_tokens"]
    assert row["divergence"] > 0


CHOSEN_OPTIONS = {"num_rollouts": 4, "distil": "disagreeing", "min_vote_share": 0.5, "teacher": "frozen"}
