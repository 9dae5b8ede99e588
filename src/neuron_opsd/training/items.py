"""What one optimiser step trains on: its questions, the student's completions of them, and which of those carry loss.

A place of the schedule is one completion: with `num_rollouts` n, places n*i ... n*i+n-1 are one group, the completions
of one question. Completion ids stay as they were sampled. Nothing is decoded and encoded again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.base import Engine, Request, Sampling
from neuron_opsd.model.order_average import OrderView
from neuron_opsd.text.answers import Vote, answers_match


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """One place of the schedule: both prompts of one question, and one completion once drawn."""

    question_id: str
    student_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]
    seed: int
    completion_ids: tuple[int, ...] = ()
    finish_reason: str = ""
    log_probs: tuple[float, ...] = ()  # of the sampler, at temperature 1
    place: int = 0
    has_loss: bool = True
    is_pushed_down: bool = False  # its loss makes it less likely. It is not distilled
    loss_mask: tuple[bool, ...] = ()  # which of its tokens carry loss, where it does. Empty: all
    views: tuple[
        OrderView, ...
    ] = ()  # where the teacher reads several orders of the choices, the first as the student
    context_tokens: int = 0  # of the teacher's prompt, those that come before the question

    @property
    def num_tokens(self) -> int:
        """Tokens of the teacher's row, the longer of the two."""
        return len(self.teacher_ids) + len(self.completion_ids)

    @property
    def context(self) -> tuple[int, ...]:
        """What the teacher reads before the question."""
        return self.teacher_ids[: self.context_tokens]


class LazyItems(torch.utils.data.Dataset):
    """The schedule's items, encoded when they are reached."""

    def __init__(self, num_items: int, make_item: Callable[[int], TrainingItem]) -> None:
        self.num_items, self.make_item = num_items, make_item

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> TrainingItem:
        return replace(self.make_item(index), place=index)


def student_sampling(settings: TrainingSettings) -> Sampling:
    """How the student writes."""
    return Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.sample_top_k,
        max_new_tokens=settings.max_new_tokens,
    )


class StudentRollouts:
    """The student's completions: drawn for `rollout_steps` steps at once, and held until their step comes."""

    def __init__(
        self, make_engine: Callable[[], Engine], items: LazyItems, settings: TrainingSettings
    ) -> None:
        self.make_engine, self.items, self.settings = make_engine, items, settings
        self.sampling = student_sampling(settings)
        self.held: dict[int, TrainingItem] = {}

    @cached_property
    def engine(self) -> Engine:
        """Made when it is first asked. vLLM takes minutes and memory."""
        return self.make_engine()

    def of_step(self, step_items: Sequence[TrainingItem]) -> list[TrainingItem]:
        """The items of this step with their completions, sampling where none are held."""
        if any(item.place not in self.held for item in step_items):
            self.held = {item.place: item for item in self.sample(self._with_later_steps(step_items))}
        return [self.held.pop(item.place) for item in step_items]

    def _with_later_steps(self, step_items: Sequence[TrainingItem]) -> list[TrainingItem]:
        """A place's successors lie whole steps further on, also where several processes share a step."""
        stride = self.settings.completions_per_step()
        later = [
            item.place + stride * ahead
            for ahead in range(1, self.settings.rollout_steps)
            for item in step_items
        ]
        return [*step_items, *(self.items[place] for place in later if place < len(self.items))]

    def sample(self, items: Sequence[TrainingItem]) -> list[TrainingItem]:
        """One completion of each item from the current student. A question's prompt is read once for its group."""
        groups: dict[tuple[int, tuple[int, ...]], list[TrainingItem]] = {}
        for item in items:
            groups.setdefault((item.place // self.settings.num_rollouts, item.student_ids), []).append(item)
        requests = [
            Request(prompt_ids=prompt, seeds=tuple(item.seed for item in group))
            for (_, prompt), group in groups.items()
        ]
        members = list(groups.values())
        self.engine.refresh()
        return [
            replace(
                item,
                completion_ids=completion.token_ids,
                log_probs=completion.log_probs,
                finish_reason=completion.finish_reason,
            )
            for index, completions in self.engine.generate(requests, self.sampling)
            for item, completion in zip(members[index], completions, strict=True)
        ]

    def state(self) -> list[dict]:
        """What a checkpoint needs of the completions whose step has not come. Prompts are encoded again."""
        return [
            {
                "place": place,
                "completion_ids": item.completion_ids,
                "log_probs": item.log_probs,
                "finish_reason": item.finish_reason,
            }
            for place, item in sorted(self.held.items())
        ]

    def restore(self, state: Iterable[dict]) -> None:
        """The held completions of a checkpoint, of every process: which of them are asked for decides the sampler."""
        self.held = {
            row["place"]: replace(
                self.items[row["place"]],
                completion_ids=tuple(row["completion_ids"]),
                log_probs=tuple(row["log_probs"]),
                finish_reason=row["finish_reason"],
            )
            for row in state
        }


def is_settled(vote: Vote | None, settings: TrainingSettings) -> bool:
    """Whether a group has a majority answer, given by at least `min_vote_share` of it."""
    return vote is not None and vote.answer is not None and vote.share >= settings.min_vote_share


def carries_loss(
    item: TrainingItem, answer: str | None, vote: Vote | None, settings: TrainingSettings
) -> bool:
    """Whether a completion carries loss: not if cut (`truncated: mask`), not if its answer is no matter of `distil`."""
    if settings.truncated == "mask" and item.finish_reason == "length":
        return False
    if settings.distil == "all":
        return True
    if vote is None or not is_settled(vote, settings):
        return False
    agrees = answers_match(answer, vote.answer)
    return not agrees if settings.distil == "disagreeing" else agrees or settings.unlikelihood_weight > 0


def marked(
    item: TrainingItem, answer: str | None, vote: Vote | None, settings: TrainingSettings
) -> TrainingItem:
    """The item as `distil` has it: distilled, pushed down because it does not agree, or without loss."""
    agrees = vote is not None and answers_match(answer, vote.answer)
    return replace(
        item,
        has_loss=carries_loss(item, answer, vote, settings),
        is_pushed_down=settings.distil == "agreeing" and not agrees,
    )


def first_of_groups(places: Iterable[int], settings: TrainingSettings) -> frozenset[int]:
    """The first `max_distilled` places of each group that carry loss."""
    groups: dict[int, list[int]] = {}
    for place in sorted(places):
        groups.setdefault(place // settings.num_rollouts, []).append(place)
    return frozenset(place for group in groups.values() for place in group[: settings.max_distilled])


def loss_places(item: TrainingItem, settings: TrainingSettings) -> list[bool]:
    """For each completion token, whether it carries loss."""
    mask = item.loss_mask or (True,) * len(item.completion_ids)
    return [
        item.has_loss and is_kept and place >= settings.skip_first_tokens
        for place, is_kept in enumerate(mask)
    ]


def micro_batches(items: Sequence[TrainingItem], num_batches: int) -> list[list[TrainingItem]]:
    """Exactly `num_batches` batches of rows of like length, longest first, so that memory peaks at once.

    Rows of one question stay together, because their teacher prompt is read once for all of them in a batch.
    Completions without loss are left out, but where too few others remain to give every batch a row.
    """
    longest: dict[tuple[int, ...], int] = {}
    for item in items:
        longest[item.teacher_ids] = max(item.num_tokens, longest.get(item.teacher_ids, 0))
    by_length = sorted(
        items, key=lambda item: (-longest[item.teacher_ids], item.teacher_ids, -item.num_tokens, item.place)
    )
    kept = [item for item in by_length if item.has_loss]
    if len(kept) < num_batches:
        spare = [item for item in by_length if not item.has_loss]
        kept += spare[::-1][: num_batches - len(kept)]
    size, rest = divmod(len(kept), num_batches)
    ends = [size * (i + 1) + min(i + 1, rest) for i in range(num_batches)]
    return [kept[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def padding_fraction(batches: Sequence[Sequence[TrainingItem]]) -> float:
    """Share of the places in the forward passes of both roles that are padding."""
    real = padded = 0
    for batch in batches:
        for prompt in ("student_ids", "teacher_ids"):
            lengths = [len(getattr(item, prompt)) + len(item.completion_ids) for item in batch]
            real += sum(lengths)
            padded += max(lengths) * len(lengths)
    return 1 - real / padded
