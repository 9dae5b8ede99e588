"""Votes that stop when they are decided (`stop_votes`): how many more samples a question needs.

The majority answer is final once no answer can overtake it with the samples that are left. Of tied answers the one
given first wins, so with v votes for the leader, c for another answer and r samples left:

    v >= c + r    where the leader was given first, also against an answer that nobody has given yet (c = 0)
    v >  c + r    where the other was

A sample for the leader moves both sides by one. So nothing is decided before half of the samples are drawn, and no
vote can be decided in fewer further samples than `least_needed`. Each sample has its own seed: those drawn are the
first of all.
"""

from collections.abc import Sequence

from neuron_opsd.text.answers import unify_answers

MAX_PARTS = (
    8  # a question's prompt is read once for each wave, so a wave is at least this part of all samples
)


def next_wave(answers: Sequence[str | None], *, total: int, skip_unparsable: bool) -> int:
    """How many samples to draw next, of `total`, after these answers. 0 once the vote is decided."""
    needed = least_needed(answers, total, skip_unparsable=skip_unparsable)
    return min(max(needed, total // MAX_PARTS), total - len(answers)) if needed else 0


def least_needed(answers: Sequence[str | None], total: int, *, skip_unparsable: bool) -> int:
    """The fewest further samples with which the vote can be decided.

    Args:
        answers: Those drawn, in the order of the samples.
        total: All samples that may be drawn.
        skip_unparsable: As in `majority_answer`. An unreadable answer is no candidate then.
    """
    left = total - len(answers)
    counts: dict[str | None, int] = {}
    for answer in unify_answers(answers):
        if answer is not None or not skip_unparsable:
            counts[answer] = counts.get(answer, 0) + 1
    leader = max(counts, key=counts.__getitem__, default=None)  # of tied ones the first
    votes = counts.get(leader, 0)
    gaps, is_before = [left - votes], True
    for answer, count in counts.items():  # in the order in which they were given first
        if answer == leader:
            is_before = False
        else:
            gaps.append(count + left - votes + is_before)
    return min(max(-(-max(gaps) // 2), 0), left)
