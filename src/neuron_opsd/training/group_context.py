"""The teacher reads an answer of the step's own group: one that agrees with the majority (U-OPSD, 2608.06296).

Such a context is known only once the group is sampled, so no earlier stage can make it. A group that is not settled, or
of which no agreeing completion can be shown, is not distilled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from accelerate.utils import gather_object

from neuron_opsd.config import TrainingSettings
from neuron_opsd.text.answers import Vote, answers_match
from neuron_opsd.training.items import TrainingItem, is_settled

# The teacher's prompt for an item, given the ids of a completion to show. None where it cannot be shown.
GroupPrompt = Callable[[TrainingItem, Sequence[int]], tuple[int, ...] | None]


def read_own_group(
    items: Sequence[TrainingItem],
    answers: Mapping[int, str | None],
    votes: Mapping[int, Vote],
    make_prompt: GroupPrompt,
    settings: TrainingSettings,
) -> list[TrainingItem]:
    """The items with their teacher's prompts, and without loss where there is none.

    Args:
        items: This process's completions of one step.
        answers: The answer of each, by place.
        votes: Of whole groups, which processes may share.
        make_prompt: Shows one completion. The first of a group that it can show is shown to all of the group.
        settings: `training.*`.
    """
    n = settings.num_rollouts
    agreeing = [
        (item.place, item.completion_ids)
        for item in items
        if answers_match(answers[item.place], votes[item.place // n].answer)
    ]
    by_group: dict[int, list[tuple[int, ...]]] = {}
    for place, completion_ids in sorted(cast(list, gather_object(agreeing))):
        by_group.setdefault(place // n, []).append(completion_ids)
    prompts: dict[int, tuple[int, ...] | None] = {}
    for item in items:
        group = item.place // n
        if group not in prompts:
            shown = by_group.get(group, []) if is_settled(votes[group], settings) else []
            made = (make_prompt(item, completion_ids) for completion_ids in shown)
            prompts[group] = next((prompt for prompt in made if prompt is not None), None)
    return [_with_prompt(item, prompts[item.place // n]) for item in items]


def _with_prompt(item: TrainingItem, prompt: tuple[int, ...] | None) -> TrainingItem:
    return replace(item, has_loss=False) if prompt is None else replace(item, teacher_ids=prompt)
