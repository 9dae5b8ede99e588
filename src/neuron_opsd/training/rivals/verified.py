"""Self-verified fine-tuning (2605.26132): a rollout is learnt only if the model itself calls its answer right.

The frozen model reads the question, the rollout's own answer, and "Is the proposed answer right?". No label is needed.
"""

from collections.abc import Mapping, Sequence

from neuron_opsd.config import PromptSettings
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import CausalLM, max_context_tokens
from neuron_opsd.model.option_scores import Ids
from neuron_opsd.model.yes_no import ask_yes_no
from neuron_opsd.records import Question, Rollout
from neuron_opsd.text.prompts import truth_messages


def verified_rollouts(
    rollouts: Sequence[Rollout],
    questions: Mapping[str, Question],
    model: CausalLM,
    encoder: ChatEncoder,
    *,
    prompts: PromptSettings,
    min_truth: float,
    batch_size: int,
) -> list[Rollout]:
    """Those whose answer has a P(True) of at least `min_truth`. An answer that many rollouts give is asked about once.

    A rollout without a readable answer, or whose prompt does not fit the model's context, is not verified.
    """
    limit = max_context_tokens(model)
    asked: dict[tuple[str, str], Ids] = {}
    for rollout in rollouts:
        answer, question = rollout.answer, questions[rollout.question_id]
        if answer is not None and (rollout.question_id, answer) not in asked:
            messages = truth_messages(question, answer, prompts.answer_format, prompts.system)
            ids = tuple(encoder.encode(messages, closes_thinking=True))
            if limit is None or len(ids) < limit:
                asked[rollout.question_id, answer] = ids
    names = list(asked)
    said = ask_yes_no(model, encoder, list(asked.values()), batch_size=batch_size)
    right = {names[place] for place, yes in said if yes.probability >= min_truth}
    return [rollout for rollout in rollouts if (rollout.question_id, rollout.answer) in right]
