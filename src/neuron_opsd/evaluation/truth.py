"""A model's own answers -> how likely it calls them right: P(True), the third kind of confidence (2207.05221).

The model reads the question, the answer that its samples voted for, and "Is this answer right?", in its own chat
template. Of the first token of its reply

    P(True) = P(yes) / (P(yes) + P(no))

each summed over its spellings ("Yes", " yes", ...). One pass a question, at temperature 1. A question whose vote cannot
be read, or whose prompt does not fit the model's context, has none.
"""

from collections.abc import Mapping, Sequence

import torch

from neuron_opsd.config import PromptSettings
from neuron_opsd.evaluation.votes import count_votes
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import CausalLM, max_context_tokens
from neuron_opsd.model.option_scores import Ids, first_token_logits
from neuron_opsd.records import Question, Rollout, TruthScore
from neuron_opsd.rollouts.sample import MessagesOf
from neuron_opsd.text.prompts import truth_messages


def score_truth(
    questions: Sequence[Question],
    rollouts: Mapping[str, Sequence[Rollout]],
    model: CausalLM,
    encoder: ChatEncoder,
    *,
    prompts: PromptSettings,
    batch_size: int,
    messages_of: MessagesOf | None = None,
) -> list[TruthScore]:
    """Ask the model about its own majority answers, in the order of the questions.

    `messages_of` is what the model read when it answered, where that was more than the question. Its last turn, the
    question itself, becomes the question about the answer.
    """
    voted = voted_answers(questions, rollouts)
    limit = max_context_tokens(model)
    asked: dict[str, Ids] = {}
    for question in questions:
        answer = voted[question.question_id]
        if answer is not None:
            messages = truth_messages(question, answer, prompts.answer_format, prompts.system)
            if messages_of:
                read = messages_of(question, tuple(range(len(question.choices))))
                messages = [*read[:-1], messages[-1]]
            ids = tuple(encoder.encode(messages, closes_thinking=True))
            if limit is None or len(ids) < limit:
                asked[question.question_id] = ids
    tokens = {word: first_tokens(word, encoder) for word in ("yes", "no")}
    names = list(asked)
    found: dict[str, TruthScore] = {}
    for place, logits in first_token_logits(model, list(asked.values()), batch_size=batch_size):
        name = names[place]
        found[name] = truth_score(name, voted[name] or "", logits, tokens["yes"], tokens["no"])
    return [found[name] for name in names]


def voted_answers(
    questions: Sequence[Question], rollouts: Mapping[str, Sequence[Rollout]]
) -> dict[str, str | None]:
    """The majority answer of each question, as evaluation counts it. No answer key."""
    votes = count_votes(questions, rollouts, {})
    return dict(zip(votes.question_ids, votes.majority, strict=True))


def first_tokens(word: str, encoder: ChatEncoder) -> list[int]:
    """The tokens with which a reply of this word begins, in its usual spellings."""
    spellings = (word, word.capitalize(), word.upper(), f" {word}", f" {word.capitalize()}")
    return sorted({encoder.encode_text(spelling)[0] for spelling in spellings})


def truth_score(
    question_id: str, answer: str, logits: torch.Tensor, yes: Sequence[int], no: Sequence[int]
) -> TruthScore:
    """From the logits of the first token. A token that begins both words says neither."""
    probs = logits.float().softmax(dim=-1)
    both = set(yes) & set(no)
    mass = [probs[[token for token in own if token not in both]].sum().item() for own in (yes, no)]
    total = sum(mass)
    return TruthScore(
        question_id=question_id,
        answer=answer,
        probability=mass[0] / total if total > 0 else 0.5,
        yes_no_mass=min(total, 1.0),
    )
