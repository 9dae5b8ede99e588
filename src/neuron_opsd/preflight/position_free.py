"""The model's answer without its positions, beside what student and teacher prefer. No label is needed.

Where an answer is one letter, its distribution is that of the first token over the letters of the choices. The mean of
the bare question over the cyclic orders of its choices, mapped back, knows no position:

    position-free answer = argmax over choices c of  1/k sum_j P_j(letter of c in the j-th order)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuron_opsd.config import PromptSettings
from neuron_opsd.contexts.orders import TeacherOrders
from neuron_opsd.contexts.prompts import both_messages
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.option_scores import Ids, read_first_tokens
from neuron_opsd.model.unembedding import logits_from_hidden
from neuron_opsd.questions.orders import cyclic_orders
from neuron_opsd.records import Question
from neuron_opsd.run.session import Run
from neuron_opsd.text.answers import LETTERS


@dataclass(frozen=True, slots=True)
class Shown:
    """A prompt, and the order of the choices in it."""

    prompt_ids: Ids
    choice_order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LetterPrompts:
    """What is read for the letters of one question. Of several prompts the mean counts."""

    averaged: Sequence[Shown]  # the bare question in every cyclic order
    student: Sequence[Shown]
    teacher: Sequence[Shown]


@dataclass(frozen=True, slots=True)
class LikeliestLetters:
    """The likeliest choice, as a letter of the original order, by each of the three."""

    averaged: str
    student: str
    teacher: str


def reads_letters(question: Question, encoder: ChatEncoder, prompts: PromptSettings) -> bool:
    """Whether an answer is one token that holds a letter, and the choices can stand in another order."""
    letters = LETTERS[: len(question.choices)]
    return (
        prompts.answer_format == "letter"
        and prompts.answer_pattern is None
        and not encoder.thinks(system=prompts.system)
        and len(cyclic_orders(question)) > 1
        and all(len(encoder.encode_text(letter)) == 1 for letter in letters)
    )


def letter_prompts(run: Run, question_id: str, choice_order: tuple[int, ...]) -> LetterPrompts:
    """The prompts of a question whose choices stand in `choice_order` for student and teacher."""
    student, teacher = run.models.encoder(), run.models.encoder(teacher=True)
    cyclic = [order.choice_order for order in cyclic_orders(run.records.pool_by_id[question_id])]
    turned = TeacherOrders(run).turned(question_id, choice_order)
    moved = [tuple(choice_order[place] for place in turn.choice_order) for turn in turned]

    def bare(order: tuple[int, ...]) -> Shown:
        return Shown(tuple(student.encode(both_messages(run, question_id, order)[0])), order)

    def after_context(order: tuple[int, ...]) -> Shown:
        return Shown(tuple(teacher.encode(both_messages(run, question_id, order)[1])), order)

    return LetterPrompts(
        [bare(order) for order in cyclic], [bare(choice_order)], [after_context(order) for order in moved]
    )


@torch.inference_mode()
def likeliest_letters(
    model: CausalLM,
    asked: Sequence[LetterPrompts],
    encoder: ChatEncoder,
    *,
    batch_size: int,
    known: Mapping[Ids, Tensor] | None = None,
) -> list[LikeliestLetters]:
    """The likeliest choice of each question by each of the three. Equal prompts are read once.

    `known` are the last states of prompts that have just been read: these are not read again.
    """
    known = known or {}
    prompts = {
        shown.prompt_ids: len(shown.choice_order)
        for own in asked
        for part in (own.averaged, own.student, own.teacher)
        for shown in part
    }
    probs: dict[Ids, Tensor] = {}

    def keep(prompt: Ids, logits: Tensor) -> None:
        letters = [encoder.encode_text(letter)[0] for letter in LETTERS[: prompts[prompt]]]
        probs[prompt] = logits[letters].double().softmax(dim=-1)

    unread = [prompt for prompt in prompts if prompt not in known]
    for token in read_first_tokens(model, unread, batch_size=batch_size):
        keep(unread[token.place], token.logits)
    for prompt in prompts.keys() & known.keys():
        keep(prompt, logits_from_hidden(model, known[prompt].to(model.device)[None])[0].cpu())

    def likeliest(part: Sequence[Shown]) -> str:
        # The i-th choice stands where the order has it.
        mean = sum(probs[shown.prompt_ids][torch.tensor(shown.choice_order).argsort()] for shown in part)
        return LETTERS[int(torch.as_tensor(mean).argmax())]

    return [
        LikeliestLetters(
            averaged=likeliest(own.averaged), student=likeliest(own.student), teacher=likeliest(own.teacher)
        )
        for own in asked
    ]
