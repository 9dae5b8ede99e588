"""Test questions + a model -> the probability it gives to each choice: the second kind of confidence beside votes.

Rules, the same for every engine, because the options are scored teacher-forced and not sampled:

- What is scored is the start of the reply. Where letters are shown (`reasoned`, `letter`) it is the letter, under the
  wording that asks for the letter alone, else (`choice_text`, `free`) the choice's text, its initial small or capital.
- Where the prompt itself opens a block of thinking, it is closed before the option: an empty thought, as those models
  read it with thinking off.
- A reply of several tokens counts with the product over its tokens. Spellings of one choice are added up.
- The choices' probabilities are divided by their sum (the option mass, reported), then averaged over the orders of the
  choices that the question's own samples saw, so a preference for a position averages out as it does in the votes.
- The answer is the likeliest choice, of equal ones the first. The confidence is its probability.
- Free-form questions, and those whose longest choice does not fit the model's context, are left out.

Where these prompts are the ones that are sampled (not under another wording, and not behind thinking), the hf engine
has read them already: `OptionReader` scores the choices then.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from neuron_opsd.config import PromptSettings
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import CausalLM, max_context_tokens
from neuron_opsd.model.option_scores import Ids, ReadPrompts, log_probs_after, reply_log_probs
from neuron_opsd.records import OptionScores, Question, Rollout
from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.prompts import student_messages

Order = tuple[int, ...]


def score_options(
    questions: Sequence[Question],
    rollouts: Mapping[str, Sequence[Rollout]],
    model: CausalLM,
    encoder: ChatEncoder,
    *,
    prompts: PromptSettings,
    batch_size: int,
) -> list[OptionScores]:
    """Score the choices of each multiple-choice question that has rollouts, in the order of the questions."""
    orders = {key: [rollout.choice_order for rollout in group] for key, group in rollouts.items()}
    places = _places(questions, orders, encoder, prompts, limit=max_context_tokens(model))
    log_probs = reply_log_probs(
        model,
        [place.prompt for place in places],
        [place.all_replies for place in places],
        batch_size=batch_size,
    )
    return _average(places, log_probs)


class OptionReader:
    """Scores the choices of some questions while their prompts are read for sampling."""

    def __init__(
        self,
        questions: Sequence[Question],
        encoder: ChatEncoder,
        prompts: PromptSettings,
        *,
        orders_of: Callable[[Question], Sequence[Order]],
        limit: int | None,
    ) -> None:
        """`orders_of` a question are the orders of its choices that are sampled. The model reads `limit` tokens."""
        self.encoder, self.prompts, self.limit = encoder, prompts, limit
        orders = {question.question_id: orders_of(question) for question in questions}
        self.places = _places(questions, orders, encoder, prompts, limit=limit)
        self.replies = {place.prompt: place.all_replies for place in self.places}
        self.found: dict[Ids, list[float]] = {}

    def __call__(self, model: CausalLM, read: ReadPrompts) -> None:
        """See `HFEngine`. A prompt that is read again is not scored again."""
        asked = [self.replies.get(prompt, []) if prompt not in self.found else [] for prompt in read.prompts]
        if any(asked):
            found = zip(read.prompts, log_probs_after(model, read, asked), strict=True)
            self.found.update((prompt, values) for prompt, values in found if values)

    def scores(self, rollouts: Sequence[Rollout]) -> list[OptionScores] | None:
        """The same as `score_options` of these samples. None if other prompts were read."""
        drawn = {(rollout.question_id, rollout.choice_order) for rollout in rollouts}
        places = [place for place in self.places if (place.question.question_id, place.order) in drawn]
        if any(place.prompt not in self.found for place in places):
            return None
        return _average(places, [self.found[place.prompt] for place in places])


@dataclass(frozen=True, slots=True)
class _Place:
    """One question in one order of its choices: the prompt, and for each choice the spellings of its reply."""

    question: Question
    order: Order
    prompt: Ids
    replies: list[list[Ids]]

    @property
    def all_replies(self) -> list[Ids]:
        return list(itertools.chain.from_iterable(self.replies))

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(map(len, self.all_replies))


def _places(
    questions: Sequence[Question],
    orders: Mapping[str, Sequence[Order]],
    encoder: ChatEncoder,
    prompts: PromptSettings,
    *,
    limit: int | None,
) -> list[_Place]:
    """Each question that has choices and orders, in each of these."""
    places: list[_Place] = []
    for question in questions:
        if question.choices and question.question_id in orders:
            distinct = dict.fromkeys(orders[question.question_id])
            own = [_place(question, order, encoder, prompts) for order in distinct]
            if limit is None or max(place.longest for place in own) <= limit:
                places += own
    return places


def reply_texts(question: Question, order: Order, answer_format: str) -> list[list[str]]:
    """For each choice, in the original order, the spellings of the reply that gives it."""
    if answer_format in ("reasoned", "letter", "math"):
        return [[LETTERS[order.index(i)]] for i in range(len(question.choices))]
    own = [choice.strip() for choice in question.choices]
    return [
        [text]
        + [
            other
            for other in (text[:1].upper() + text[1:], text[:1].lower() + text[1:])
            if other not in own and other != text
        ]
        for text in own
    ]


def _place(question: Question, order: Order, encoder: ChatEncoder, prompts: PromptSettings) -> _Place:
    replies = _replies(question, order, encoder, prompts.answer_format)
    return _Place(question, order, _prompt(question, order, encoder, prompts), replies)


def _prompt(question: Question, order: Order, encoder: ChatEncoder, prompts: PromptSettings) -> Ids:
    wording = "letter" if prompts.answer_format in ("reasoned", "math") else prompts.answer_format
    messages = student_messages(question, choice_order=order, answer_format=wording, system=prompts.system)
    return tuple(encoder.encode(messages, closes_thinking=True))


def _replies(question: Question, order: Order, encoder: ChatEncoder, answer_format: str) -> list[list[Ids]]:
    """Token ids of `reply_texts`. Spellings that encode alike count once."""
    return [
        list(dict.fromkeys(tuple(encoder.encode_text(text)) for text in spellings))
        for spellings in reply_texts(question, order, answer_format)
    ]


def _average(places: Sequence[_Place], log_probs: Sequence[Sequence[float]]) -> list[OptionScores]:
    """The scores of each question, from the log-probabilities of the replies in each of its places."""
    by_question: dict[str, list[list[float]]] = {}
    for place, values in zip(places, log_probs, strict=True):
        options = [_log_sum(part) for part in _split(values, [len(own) for own in place.replies])]
        by_question.setdefault(place.question.question_id, []).append(options)
    return [average_orders(question_id, orders) for question_id, orders in by_question.items()]


def average_orders(question_id: str, log_probs: Sequence[Sequence[float]]) -> OptionScores:
    """Over the orders of the choices: the mean of the normalised probabilities, and of the option mass."""
    shares, masses = [], []
    for options in log_probs:
        total = _log_sum(options)
        shares.append([math.exp(option - total) for option in options])
        masses.append(math.exp(total))
    return OptionScores(
        question_id=question_id,
        probabilities=tuple(sum(column) / len(shares) for column in zip(*shares, strict=True)),
        option_mass=min(sum(masses) / len(masses), 1.0),
        num_orders=len(shares),
    )


def _split(values: Sequence[float], sizes: Sequence[int]) -> Iterator[Sequence[float]]:
    start = 0
    for size in sizes:
        yield values[start : start + size]
        start += size


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
