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
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from neuron_opsd.config import PromptSettings
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import CausalLM, max_context_tokens
from neuron_opsd.model.option_scores import Ids, reply_log_probs
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
    limit = max_context_tokens(model)
    places: list[_Place] = []
    for question in questions:
        if not question.choices or question.question_id not in rollouts:
            continue
        orders = list(dict.fromkeys(rollout.choice_order for rollout in rollouts[question.question_id]))
        own = [_place(question, order, encoder, prompts) for order in orders]
        if limit is None or max(place.longest for place in own) <= limit:
            places += own
    log_probs = reply_log_probs(
        model,
        [place.prompt for place in places],
        [list(itertools.chain.from_iterable(place.replies)) for place in places],
        batch_size=batch_size,
    )
    scored = itertools.groupby(zip(places, log_probs, strict=True), key=lambda pair: pair[0].question)
    return [_average(question, *zip(*pairs, strict=True)) for question, pairs in scored]


@dataclass(frozen=True, slots=True)
class _Place:
    """One question in one order of its choices: the prompt, and for each choice the spellings of its reply."""

    question: Question
    prompt: Ids
    replies: list[list[Ids]]

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(len(ids) for spellings in self.replies for ids in spellings)


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
    return _Place(question, _prompt(question, order, encoder, prompts), replies)


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


def _average(
    question: Question, places: Sequence[_Place], log_probs: Sequence[Sequence[float]]
) -> OptionScores:
    return average_orders(
        question.question_id,
        [
            [_log_sum(part) for part in _split(values, [len(own) for own in place.replies])]
            for place, values in zip(places, log_probs, strict=True)
        ],
    )


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
