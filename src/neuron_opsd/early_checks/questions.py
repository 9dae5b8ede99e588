"""Questions against settings: one domain, answers that a vote can compare, room in the model's context."""

from collections.abc import Sequence

from neuron_opsd.config import Config
from neuron_opsd.errors import ConfigError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import configured_context
from neuron_opsd.questions.read import place_of
from neuron_opsd.records import Question
from neuron_opsd.rollouts.sample import check_fits
from neuron_opsd.stage_graph import stages_made
from neuron_opsd.text.prompts import student_messages


def single_domain(questions: Sequence[Question]) -> str:
    """The one domain of the pool.

    Raises:
        ConfigError: the pool spans several, so "in-domain" would have no meaning.
    """
    domains = sorted({question.domain for question in questions if question.split == "train"})
    if len(domains) != 1:
        raise ConfigError(
            f"The pool holds {len(domains)} domains ({', '.join(domains[:6])}). Train on one at a time: set "
            f"questions.domain={domains[0] if domains else '...'}; the others become cross-domain sets."
        )
    return domains[0]


def check_votes(config: Config, questions: Sequence[Question]) -> None:
    """Where a vote is taken, refuse questions that nothing asks for an answer that could be read out and compared.

    Raises:
        ConfigError: names what votes, and such a question.
    """
    training = config.training
    is_taught = training.objective == "distillation"
    voters = {
        f"training.objective={training.objective}": training.objective in ("majority_sft", "majority_reward"),
        f"contexts.retrieval={config.contexts.retrieval}": is_taught and config.contexts.is_own,
        "training.distil=disagreeing": is_taught and training.distil == "disagreeing",
        "selection.score=vote_share": "selection" in stages_made(config)
        and config.selection.score == "vote_share",
    }
    what = next((name for name, votes in voters.items() if votes), None)
    free = [question for question in questions if question.split == "train" and not question.choices]
    if what and free and config.prompts.answer_format not in ("reasoned", "math"):
        raise ConfigError(
            f"{what} takes a vote, but prompts.answer_format is {config.prompts.answer_format} and {len(free)} "
            f"questions of the pool are free-form ({free[0].question_id}): nothing asks for an answer that can be "
            "read out and compared. Use prompts.answer_format=reasoned (or math), or give the questions their choices."
        )


def check_lengths(questions: Sequence[Question], encoder: ChatEncoder, config: Config) -> None:
    """Refuse a question that leaves no room for its answer in the model's context.

    Raises:
        DataError: names the question and the numbers.
    """
    limit = configured_context(config.model)
    if limit is None:
        return
    prompts = config.prompts
    for question in questions:
        new = (
            max(config.rollouts.max_new_tokens, config.training.max_new_tokens)
            if question.split == "train"
            else config.evaluation.max_new_tokens
        )
        order = tuple(range(len(question.choices)))
        messages = student_messages(
            question, choice_order=order, answer_format=prompts.answer_format, system=prompts.system
        )
        num_tokens = len(encoder.encode(messages))
        is_long = num_tokens + new > limit
        check_fits(question, num_tokens, new, limit, where=_place(question, config) if is_long else "")


def _place(question: Question, config: Config) -> str:
    """The file and line of a question."""
    paths = [config.questions.path, *config.questions.cross_paths, *config.evaluation.general_paths]
    return place_of(question, paths, config.questions.fields)
