"""A model's own answers -> how likely it calls them right: P(True), the third kind of confidence (2207.05221).

The model reads the question, the answer that its samples voted for, and "Is this answer right?", in its own chat
template. Of the first token of its reply

    P(True) = P(yes) / (P(yes) + P(no))

each summed over its spellings ("Yes", " yes", ...). One pass a question, at temperature 1. A question whose vote cannot
be read, or whose prompt does not fit the model's context, has none.
"""

from collections.abc import Mapping, Sequence

from neuron_opsd.config import PromptSettings
from neuron_opsd.evaluation.votes import count_votes
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import CausalLM, max_context_tokens
from neuron_opsd.model.option_scores import Ids
from neuron_opsd.model.yes_no import ask_yes_no
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
    names = list(asked)
    found: dict[str, TruthScore] = {}
    for place, said in ask_yes_no(model, encoder, list(asked.values()), batch_size=batch_size):
        name = names[place]
        found[name] = TruthScore(
            question_id=name, answer=voted[name] or "", probability=said.probability, yes_no_mass=said.mass
        )
    return [found[name] for name in names]


def voted_answers(
    questions: Sequence[Question], rollouts: Mapping[str, Sequence[Rollout]]
) -> dict[str, str | None]:
    """The majority answer of each question, as evaluation counts it. No answer key."""
    votes = count_votes(questions, rollouts, {})
    return dict(zip(votes.question_ids, votes.majority, strict=True))
