import pytest

from neuron_opsd.training.rivals.votes import agreements, votes_of_whole_groups


def test_groups_vote_by_equivalence_and_by_the_stated_rules() -> None:
    everyone = [
        (0, "9 apples"), (0, "8"), (0, "9"), (0, "8.0"),  # equal numbers: a tie of two, the first wins
        (1, None), (1, None), (1, None), (1, "B"),  # what cannot be read never wins, and counts
        (2, None), (2, None), (2, None), (2, None),  # nobody wins
    ]  # fmt: skip
    votes = votes_of_whole_groups(everyone, 4)
    assert (votes[0].answer, votes[0].share) == ("9 apples", 0.5)
    assert (votes[1].answer, votes[1].share) == ("B", 0.25)
    assert votes[2].answer is None
    assert agreements(everyone, votes) == [1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_a_group_spread_over_processes_votes_once_whole() -> None:
    """As `gather_object` returns it: what one process holds, then what the other does."""
    first, second = [(0, "A"), (0, "B"), (1, "C")], [(1, "C"), (0, "B"), (1, "A")]
    votes = votes_of_whole_groups([*first, *second], 3)
    assert agreements(first, votes) == [0, 1, 1]  # its own half alone would have said A
    assert agreements(second, votes) == [1, 1, 0]
    with pytest.raises(ValueError, match="group 0 has 2 answers of 3"):
        votes_of_whole_groups(first, 3)
