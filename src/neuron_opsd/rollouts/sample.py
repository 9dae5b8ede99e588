"""Questions -> rollouts. The frozen model answers every question zero-shot (method, section 1).

Evaluation samples through the same function, with its own settings.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from neuron_opsd.config import PromptSettings
from neuron_opsd.engines.base import Completion, Engine, Request, Sampling
from neuron_opsd.errors import DataError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Question, Rollout
from neuron_opsd.text.fixed_order import has_fixed_order
from neuron_opsd.text.prompts import Message, student_messages
from neuron_opsd.text.replies import read_reply

MessagesOf = Callable[[Question, tuple[int, ...]], list[Message]]


def sample_rollouts(
    questions: Sequence[Question],
    engine: Engine,
    encoder: ChatEncoder,
    *,
    prompts: PromptSettings,
    sampling: Sampling,
    num_rollouts: int,
    shuffle_choices: bool,
    seed: int,
    stage: str,
    messages_of: MessagesOf | None = None,
    max_context: int | None = None,
    next_wave: Callable[[Sequence[str | None]], int] | None = None,
    on_finished: Callable[[int, int], None] = lambda questions, tokens: None,
) -> list[Rollout]:
    """Sample `num_rollouts` completions of each question, or the first of them where `next_wave` says that is enough.

    Args:
        questions: What to answer.
        engine: Generates completions.
        encoder: The chat template.
        prompts: Wording.
        sampling: Temperature, top-p, length limit.
        num_rollouts: Completions a question.
        shuffle_choices: Whether each rollout sees the choices in an order of its own.
        seed: The run's seed.
        stage: Part of the random state, so that two stages never draw alike.
        messages_of: What the model reads for a question and an order of its choices. Default: the bare question.
        max_context: Tokens that the model can read, where known.
        next_wave: Says how many completions a question gets next, after the answers it has. Default: all at once.
        on_finished: Called with (finished prompts, tokens generated) as batches end.

    Returns:
        Rollouts in the order of the questions, then of the rollout index.

    Raises:
        DataError: a question that does not fit the model's context.
    """
    orders = [
        choice_orders(question, num_rollouts, shuffle=shuffle_choices, seed=seed, stage=stage)
        for question in questions
    ]
    read = messages_of or partial(bare_messages, prompts=prompts)
    num_next = next_wave or (lambda answers: num_rollouts - len(answers))
    done: list[list[Rollout]] = [[] for _ in questions]
    wave = {q: range(num_next([])) for q in range(len(questions))}
    while wave:
        requests, places = _build_requests(questions, orders, encoder, read, wave, seed=seed, stage=stage)
        for request, (q, _) in zip(requests, places, strict=True):
            check_fits(questions[q], len(request.prompt_ids), sampling.max_new_tokens, max_context)
        for index, completions in engine.generate(requests, sampling):
            q, rollout_indices = places[index]
            done[q] += [
                _make_rollout(
                    questions[q], r, orders[q][r], requests[index].prompt_ids, completion, encoder, prompts
                )
                for r, completion in zip(rollout_indices, completions, strict=True)
            ]
            on_finished(len(rollout_indices), sum(len(completion.token_ids) for completion in completions))
        for q in wave:
            done[q].sort(key=lambda rollout: rollout.rollout_index)
        asked, wave = wave, {}
        for q in asked:
            if more := num_next([rollout.answer for rollout in done[q]]):
                wave[q] = range(len(done[q]), len(done[q]) + more)
            else:
                on_finished(num_rollouts - len(done[q]), 0)  # what is not drawn is done, too
    return [rollout for own in done for rollout in own]


def bare_messages(question: Question, order: tuple[int, ...], *, prompts: PromptSettings) -> list[Message]:
    """The question alone."""
    return student_messages(
        question, choice_order=order, answer_format=prompts.answer_format, system=prompts.system
    )


def choice_orders(
    question: Question, num_rollouts: int, *, shuffle: bool, seed: int, stage: str
) -> list[tuple[int, ...]]:
    """The order of the choices for each rollout. The identity unless shuffled, or where a choice points at others."""
    identity = tuple(range(len(question.choices)))
    if not shuffle or not identity or has_fixed_order(question.choices):
        return [identity] * num_rollouts
    return [
        tuple(
            random.Random(derive_seed(seed, stage, "order", question.question_id, r)).sample(
                identity, len(identity)
            )
        )
        for r in range(num_rollouts)
    ]


def _build_requests(
    questions: Sequence[Question],
    orders: list[list[tuple[int, ...]]],
    encoder: ChatEncoder,
    messages_of: MessagesOf,
    wave: Mapping[int, range],
    *,
    seed: int,
    stage: str,
) -> tuple[list[Request], list[tuple[int, list[int]]]]:
    """One request for each distinct prompt, and (question, rollout indices) that it serves.

    `wave` has the questions that are asked, and the indices of their completions.
    """
    requests: list[Request] = []
    places: list[tuple[int, list[int]]] = []
    for q, own in wave.items():
        question = questions[q]
        by_order: dict[tuple[int, ...], list[int]] = {}
        for r in own:
            by_order.setdefault(orders[q][r], []).append(r)
        for order, indices in by_order.items():
            messages = messages_of(question, order)
            seeds = tuple(derive_seed(seed, stage, question.question_id, r) for r in indices)
            requests.append(Request(prompt_ids=tuple(encoder.encode(messages)), seeds=seeds))
            places.append((q, indices))
    return requests, places


def _make_rollout(
    question: Question,
    rollout_index: int,
    order: tuple[int, ...],
    prompt_ids: tuple[int, ...],
    completion: Completion,
    encoder: ChatEncoder,
    prompts: PromptSettings,
) -> Rollout:
    reply = encoder.decode_reply(completion.token_ids)
    reading = read_reply(
        reply,
        choices=question.choices,
        choice_order=order,
        prompts=prompts,
        finish_reason=completion.finish_reason,
    )
    return Rollout(
        question_id=question.question_id,
        rollout_index=rollout_index,
        choice_order=order,
        prompt_ids=prompt_ids,
        completion_ids=completion.token_ids,
        token_log_probs=completion.log_probs,
        finish_reason=completion.finish_reason,
        reply=reply,
        answer=reading.answer,
    )


def read_again(rollout: Rollout, question: Question, prompts: PromptSettings) -> Rollout:
    """A stored rollout with its answer as today's reader reads it."""
    reading = read_reply(
        rollout.reply,
        choices=question.choices,
        choice_order=rollout.choice_order,
        prompts=prompts,
        finish_reason=rollout.finish_reason,
    )
    return dataclasses.replace(rollout, answer=reading.answer)


def check_fits(
    question: Question, num_prompt_tokens: int, max_new_tokens: int, max_context: int | None
) -> None:
    """Refuse a question that leaves no room for its answer.

    Raises:
        DataError: names the question and the numbers.
    """
    if max_context is not None and num_prompt_tokens + max_new_tokens > max_context:
        raise DataError(
            f"Question {question.question_id} needs {num_prompt_tokens} prompt tokens, and up to "
            f"{max_new_tokens} for its answer. The model reads {max_context}. Shorten or remove it, or lower "
            "max_new_tokens."
        )
