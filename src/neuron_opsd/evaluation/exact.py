"""Test questions + a model -> the probability of each answer, from one pass: `evaluation.exact` (docs/evaluation.md).

Where a reply is one token, samples only estimate what the model's logits say. With the probability p_T(t) at which a
token t is drawn first, at the temperature and top-p of evaluation:

    P(choice) = sum of p_T(t) over the tokens t that the answer reader reads as this choice's letter

A question is asked in the orders of its choices that its samples would see. Its probabilities are the mean over them.
Tokens are read by the reader of every reply. It reads all that hold a letter and nothing else, and every other token
that is likely enough to matter.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import torch

from neuron_opsd.config import PromptSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.sampling import token_probs
from neuron_opsd.evaluation.options import average_orders
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.letter_tokens import letter_tokens
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.option_scores import Ids, read_first_tokens
from neuron_opsd.records import ExactRollout, OptionScores, Question, Rollout
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.rollouts.sample import MessagesOf, bare_messages, check_fits
from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.replies import read_reply

MIN_PROBABILITY = 1e-3  # a rarer token counts as unread, unless it holds a letter alone
Order = tuple[int, ...]


class OneTokenReader:
    """Which choice each token gives, if it is the whole reply."""

    def __init__(self, encoder: ChatEncoder, prompts: PromptSettings) -> None:
        self.encoder, self.prompts = encoder, prompts

    @cached_property
    def letter_tokens(self) -> Mapping[str, list[int]]:
        """Of each letter, the tokens that hold it and no other letter or digit: "A", " A", "(A", "a"."""
        found: dict[str, list[int]] = {letter: [] for letter in LETTERS}
        for own in letter_tokens(self.encoder.tokenizer):
            found[own.letter].append(own.token)
        return found

    def read(self, token: int, question: Question, order: Order) -> str | None:
        """The letter, of the original order of the choices, or None."""
        reading = read_reply(
            self.encoder.decode_reply((token,)),
            choices=question.choices,
            choice_order=order,
            prompts=self.prompts,
            finish_reason="stop",
        )
        return reading.answer

    def answer_probabilities(
        self, probs: torch.Tensor, question: Question, order: Order
    ) -> tuple[float, ...]:
        """Of each choice, in the original order. `probs` are the tokens' own."""
        tokens = set((probs >= MIN_PROBABILITY).nonzero()[:, 0].tolist())
        tokens.update(token for letter in LETTERS[: len(order)] for token in self.letter_tokens[letter])
        found = dict.fromkeys(LETTERS[: len(order)], 0.0)
        for token in sorted(tokens):
            answer = self.read(token, question, order)
            if answer is not None:
                found[answer] += probs[token].item()
        return tuple(found.values())


def answer_exactly(
    questions: Sequence[Question],
    model: CausalLM,
    reader: OneTokenReader,
    *,
    sampling: Sampling,
    orders: Sequence[Sequence[Order]],
    messages_of: MessagesOf | None = None,
    max_context: int | None = None,
    batch_size: int,
    on_state: Callable[[Question, torch.Tensor], None] | None = None,
    on_finished: Callable[[int, int], None] = lambda records, tokens: None,
) -> list[ExactRollout]:
    """One record for each question and order of its choices. Equal prompts are read once.

    `orders` are those of each question. `messages_of` and `max_context` are as for `sample_rollouts`. `on_state` is
    called with the hidden state that predicts the reply to each question in its first order. `on_finished` is called
    with the records that a pass made, and their tokens.

    Raises:
        DataError: a question that does not fit the model's context.
    """
    read = messages_of or partial(bare_messages, prompts=reader.prompts)
    places: dict[tuple[int, Order], Ids] = {}
    for q, question in enumerate(questions):
        for order in dict.fromkeys(orders[q]):
            places[q, order] = prompt = tuple(reader.encoder.encode(read(question, order)))
            check_fits(question, len(prompt), 1, max_context)
    found: dict[tuple[int, Order], ExactRollout] = {}
    keys, num_records = list(places), 0
    first_tokens = read_first_tokens(model, list(places.values()), batch_size=batch_size)
    for num_read, (place, logits, state) in enumerate(first_tokens, start=1):
        q, order = keys[place]
        found[keys[place]] = _answer(questions[q], order, places[q, order], logits, reader, sampling)
        if on_state and order == orders[q][0]:
            on_state(questions[q], state)
        num_records += orders[q].count(order)
        if num_read % batch_size == 0 or num_read == len(keys):
            on_finished(num_records, num_records)
            num_records = 0
    return [
        dataclasses.replace(found[q, order], rollout_index=index)
        for q in range(len(questions))
        for index, order in enumerate(orders[q])
    ]


def _answer(
    question: Question,
    order: Order,
    prompt: Ids,
    logits: torch.Tensor,
    reader: OneTokenReader,
    sampling: Sampling,
) -> ExactRollout:
    log_probs = logits.log_softmax(dim=-1)
    likeliest = int(logits.argmax())
    letters = [reader.encoder.encode_text(LETTERS[order.index(i)])[0] for i in range(len(order))]
    return ExactRollout(
        question_id=question.question_id,
        rollout_index=0,
        choice_order=order,
        prompt_ids=prompt,
        completion_ids=(likeliest,),
        token_log_probs=(log_probs[likeliest].item(),),
        finish_reason="stop",
        reply=reader.encoder.decode_reply((likeliest,)),
        answer=reader.read(likeliest, question, order),
        answer_probabilities=reader.answer_probabilities(
            token_probs(logits[None], sampling)[0], question, order
        ),
        option_log_probs=tuple(log_probs[letters].tolist()),
    )


def exact_options(answers: Sequence[Rollout]) -> list[OptionScores]:
    """The probabilities of the choices at temperature 1, from the passes that were made for the answers."""
    exact = [answer for answer in answers if isinstance(answer, ExactRollout)]
    return [
        average_orders(question_id, list({own.choice_order: own.option_log_probs for own in group}.values()))
        for question_id, group in group_by_question(exact).items()
    ]
