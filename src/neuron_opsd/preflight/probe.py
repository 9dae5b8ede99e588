"""What the preflight asks and measures: is the teacher worth learning from? Label-free (docs/preflight.md).

A sample of the selected questions is answered by the frozen model with its context (teacher) and without (student), and
the student's first completion is scored under both prompts, as training will do. A matched teacher has no temperature
yet, which training finds:

    entropy change  mean over tokens of H(teacher) - H(student)        falls where the context made the model surer
    divergence      mean over tokens of KL(student || teacher)         what training will minimise

`verdict.py` makes the measures and the verdict of these records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from neuron_opsd.config import PromptSettings
from neuron_opsd.engines.base import Completion, Engine, Request, Sampling
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.divergence import entropy, reverse_kl
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.order_average import OrderView, mean_log_probs, view_states
from neuron_opsd.model.unembedding import logits_from_hidden
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import PreflightItem, Question
from neuron_opsd.text.replies import read_reply


@dataclass(frozen=True, slots=True)
class PromptPair:
    """Both prompts of one sample of one question. The choices stand in the same order in both.

    A teacher that reads several orders answers each sample in another one, so that its answers stand for their mean.
    """

    question_id: str
    choice_order: tuple[int, ...]
    student_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]
    seed: int  # for both roles, so that they differ by the context alone
    teacher_order: tuple[int, ...] | None = None  # where it is another than the student's
    views: tuple[OrderView, ...] = ()  # the teacher's orders, where there are several


def sample_ids(question_ids: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Some of the selected questions, by a hash, so that another fraction or order keeps most of them."""
    return sorted(question_ids, key=lambda i: (derive_seed(seed, "preflight", i), i))[:count]


def answer_prompts(
    prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], engine: Engine, sampling: Sampling
) -> list[Completion]:
    """One completion of each prompt. Equal prompts are read once."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(place)
    requests = [
        Request(prompt_ids=prompt, seeds=tuple(seeds[i] for i in own)) for prompt, own in places.items()
    ]
    done: dict[int, Completion] = {}
    owners = list(places.values())
    for index, completions in engine.generate(requests, sampling):
        done.update(zip(owners[index], completions, strict=True))
    return [done[i] for i in range(len(prompts))]


@torch.inference_mode()
def score_under_both(
    model: CausalLM, pairs: Sequence[PromptPair], completions: Sequence[Sequence[int]], *, chunk_tokens: int
) -> Iterator[tuple[float, float, float]]:
    """For each pair: student entropy, teacher entropy, KL(student || teacher), summed over the completion's tokens."""
    for pair, completion in zip(pairs, completions, strict=True):
        student, teacher = (
            view_states(model, [views], [completion])
            for views in ([OrderView(pair.student_ids)], pair.views or [OrderView(pair.teacher_ids)])
        )
        sums = torch.zeros(3, dtype=torch.float64)
        for start in range(0, len(completion), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            ours, theirs = (
                mean_log_probs(
                    logits_from_hidden(model, states.hidden[part]), *(rows[part] for rows in states[1:])
                )
                for states in (student, teacher)
            )
            for i, values in enumerate((entropy(ours), entropy(theirs), reverse_kl(ours, theirs))):
                sums[i] += values.double().sum().cpu()
        yield tuple(sums.tolist())


def make_item(
    question: Question,
    pairs: Sequence[PromptPair],
    student: Sequence[Completion],
    teacher: Sequence[Completion],
    sums: tuple[float, float, float],
    encoders: tuple[ChatEncoder, ChatEncoder],
    *,
    prompts: PromptSettings,
) -> PreflightItem:
    """The record of one question: `pairs` and both roles' completions are its samples, `sums` the first one's."""
    roles = zip(encoders, (student, teacher), strict=True)
    replies = [
        [(encoder.decode_reply(c.token_ids), c.finish_reason) for c in completions]
        for encoder, completions in roles
    ]
    orders = [
        [pair.choice_order for pair in pairs],
        [pair.teacher_order or pair.choice_order for pair in pairs],
    ]
    answers = [
        tuple(
            read_reply(
                reply,
                choices=question.choices,
                choice_order=order,
                prompts=prompts,
                finish_reason=finish_reason,
            ).answer
            for order, (reply, finish_reason) in zip(shown, own, strict=True)
        )
        for shown, own in zip(orders, replies, strict=True)
    ]
    return PreflightItem(
        question_id=question.question_id,
        student_answers=answers[0],
        teacher_answers=answers[1],
        student_reply=replies[0][0][0],
        teacher_reply=replies[1][0][0],
        student_lengths=tuple(len(completion.token_ids) for completion in student),
        teacher_lengths=tuple(len(completion.token_ids) for completion in teacher),
        student_finished=tuple(completion.finish_reason == "stop" for completion in student),
        teacher_finished=tuple(completion.finish_reason == "stop" for completion in teacher),
        num_completion_tokens=len(student[0].token_ids),
        student_entropy=sums[0],
        teacher_entropy=sums[1],
        reverse_kl=sums[2],
    )
