from neuron_opsd.records import Rollout
from neuron_opsd.rollouts.pseudo_label import agreeing_rollouts, likeliest_agreeing, vote, votes_of_groups
from neuron_opsd.text.answers import Vote


def rollout(question: str, index: int, answer: str | None, *log_probs: float) -> Rollout:
    return Rollout(
        question_id=question, rollout_index=index, choice_order=(), prompt_ids=(1,),
        completion_ids=tuple(range(len(log_probs))), token_log_probs=log_probs, finish_reason="stop", reply="",
        answer=answer,
    )  # fmt: skip


ROLLOUTS = [
    rollout("sum", 2, "9 apples", -0.4, -0.2, -0.3),  # the likeliest token by token, though not as a whole
    rollout("sum", 0, "8", -0.01),
    rollout("sum", 1, "9", -0.8),
    rollout("sum", 3, None, -0.01),
    rollout("tied", 0, "B", -3.0),
    rollout("tied", 1, "A", -1.0),
    rollout("silent", 0, None, -1.0),
]


def test_equivalent_answers_vote_together_and_ties_go_to_the_first() -> None:
    votes = vote(ROLLOUTS)
    assert (votes["sum"].answer, votes["sum"].share) == ("9", 0.5)
    assert votes["tied"].answer == "B"
    assert votes["silent"].answer is None
    assert vote(reversed(ROLLOUTS)) == votes  # first sampled, not first read


def test_the_likeliest_rollout_of_the_majority() -> None:
    assert [r.rollout_index for r in agreeing_rollouts(ROLLOUTS)["sum"]] == [1, 2]
    chosen = likeliest_agreeing(ROLLOUTS)
    assert {name: r.rollout_index for name, r in chosen.items()} == {"sum": 2, "tied": 0}


def test_votes_are_over_whole_groups_in_the_order_of_places() -> None:
    given = [(1, 5, "B"), (0, 0, "A"), (1, 3, None), (0, 1, "B"), (0, 2, "B"), (1, 4, None)]
    votes = votes_of_groups(given)
    assert votes == {1: Vote("B", 1, 3), 0: Vote("B", 2, 3)}
    assert votes_of_groups([(0, 1, "B"), (0, 0, "A")])[0].answer == "A"  # of tied answers the first sampled
